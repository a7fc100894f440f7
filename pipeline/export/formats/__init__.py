"""The formats of exports. Each format is a module with the functions `write`, `load` and `metadata`."""
