"""Code for image files: it finds the usable ones, decodes their pixels, and augments them."""
