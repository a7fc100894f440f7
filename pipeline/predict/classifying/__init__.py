"""From files to predictions and rejects, in this process or by the workers of a cluster."""
