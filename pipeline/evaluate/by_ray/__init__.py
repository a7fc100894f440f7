"""The workers of a Ray cluster compute the outputs of a fine-tuned classifier."""
