"""Features in memory, or on disk if memory may not hold them all."""
