"""Figures of how good a model is, and what they are compared with."""
