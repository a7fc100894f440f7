"""Pretrained networks: their graphs, the places to cut them, and their weights."""
