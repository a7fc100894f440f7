"""`headstart sweep`: a search over heads."""
