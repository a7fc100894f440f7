"""Find usable image files, decode their pixels, and augment them."""
