"""`headstart check`: find problems in a data folder before training."""
