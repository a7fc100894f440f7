"""`headstart check`: what is in a data folder, before anything is trained on it."""
