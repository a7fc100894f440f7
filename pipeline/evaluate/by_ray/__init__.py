"""Compute the outputs of a fine-tuned classifier with the workers of a Ray cluster."""
