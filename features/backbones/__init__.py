"""Pretrained networks: what is known of each, their weights, and their fast frozen forms."""
