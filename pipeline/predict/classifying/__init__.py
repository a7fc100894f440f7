"""Classify files in this process or by the workers of a cluster. The results are predictions and rejects."""
