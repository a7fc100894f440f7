"""Read tars of samples as DATA. They have the form of WebDataset: `key.jpg` beside `key.cls` or `key.json`."""
