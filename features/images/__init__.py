"""Image files: which of them can be used, their pixels, and augmented views."""
