"""Tars of samples as DATA, in the form of WebDataset: `key.jpg` beside `key.cls` or `key.json`."""
