"""Running the frozen network: its fast forms, their precision and engine, and the stores that they fill."""
