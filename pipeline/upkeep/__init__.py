"""`headstart store`: commands that list, check, clean up and export the features in a store."""
