"""Features in memory or, where they are more than memory may hold, on disk."""
