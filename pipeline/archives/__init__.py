"""Read archives of images: zips, and plain or compressed tars. Names, sizes and content are checked for attacks."""
