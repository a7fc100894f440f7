"""Extraction on a Ray cluster: workers on its nodes, and units of images given out to the workers."""
