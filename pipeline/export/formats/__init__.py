"""The formats of exports, a module each: `write` an export, `load` it in its own runtime, read its `metadata`."""
