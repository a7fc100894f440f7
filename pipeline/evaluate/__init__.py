"""`headstart evaluate` and `compare`: score and compare runs."""
