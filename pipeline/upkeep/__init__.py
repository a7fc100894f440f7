"""`headstart store`: a store held against a data folder."""
