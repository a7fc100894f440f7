"""`headstart predict`: classify any images with a run."""
