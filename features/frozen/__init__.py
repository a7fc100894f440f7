"""The frozen network as it runs: its fast forms, the arithmetic and engine in use, and the stores that it fills."""
