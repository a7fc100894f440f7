"""`headstart export`: a run as one file for elsewhere, compared with the run in its own runtime."""
