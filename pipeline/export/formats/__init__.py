"""The formats of exports. Each module can `write` an export, `load` it in its runtime, and read its `metadata`."""
