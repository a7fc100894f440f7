"""`headstart backbones`: list the networks, and the cuts of each."""
