"""Pretrained networks: facts about them, their weights, and their fast frozen forms."""
