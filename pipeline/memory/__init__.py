"""Keep features in memory, or on disk if they would take more memory than is allowed."""
