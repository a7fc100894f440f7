"""`headstart head`: phase 1, a dense head trained on cached features."""
