"""Weights that come with headstart."""
