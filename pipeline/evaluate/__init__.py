"""`headstart evaluate`, `predict` and `compare`: score, use and compare runs."""
