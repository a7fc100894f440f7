"""Scans and extraction on a Ray cluster. The driver gives units of files or images to workers on the nodes."""
