"""Image files: which of them are usable, their pixels, and augmented views."""
