"""`headstart evaluate`, `predict` and `compare`: a run used and judged."""
