"""`headstart store`: commands that list, explain, check, clean up and export the features in a store."""
