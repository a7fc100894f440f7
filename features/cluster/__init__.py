"""Extraction on a Ray cluster. Its nodes run workers, and each worker gets units of images."""
