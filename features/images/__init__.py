"""Image files: which can be used, their pixels, and augmented views."""
