"""Labelled vectors and images to a classifier: examples, heads, fine-tuning, evaluation, prediction, runs."""
