"""`headstart labels`: find likely label errors, and change labels."""
