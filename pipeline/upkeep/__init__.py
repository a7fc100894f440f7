"""`headstart store`: looking after a store, alone or together with data folders."""
