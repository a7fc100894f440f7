"""Columns: arrays that hold many paths or images, with about 100 bytes per image, instead of an object for each."""
