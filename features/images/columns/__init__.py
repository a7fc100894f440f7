"""Many paths or images in a few arrays, at about 100 bytes an image, instead of an object for each."""
