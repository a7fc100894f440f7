"""Advise on the network, the cut and fine-tuning."""
