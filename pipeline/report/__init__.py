"""`headstart report`: write one HTML page about a run, or about several runs."""
