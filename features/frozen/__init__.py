"""Running the frozen network: its fast forms, the precision and engine of each form, and the stores of a network."""
