"""The outputs of a fine-tuned classifier by the workers of a Ray cluster."""
