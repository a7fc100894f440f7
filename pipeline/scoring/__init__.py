"""Figures that say how good a model is, and baselines to compare them with."""
