"""`headstart sweep`: a search for the best head."""
