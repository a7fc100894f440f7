"""The images of a data set with their labels, splits and groups, in a few arrays. No image is an object of its own."""
