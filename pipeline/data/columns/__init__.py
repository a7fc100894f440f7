"""The images of a data set with labels, splits and groups, in a few arrays instead of an object for each."""
