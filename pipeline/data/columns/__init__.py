"""The images of a data set with their labels, splits and groups. They are a few arrays, not one object per image."""
