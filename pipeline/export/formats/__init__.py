"""The formats of exports, a module each. Its functions are `write`, `load` and `metadata`."""
