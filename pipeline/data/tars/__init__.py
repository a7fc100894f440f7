"""Read tars of samples as DATA. The tars have the form of WebDataset: `key.jpg` beside `key.cls` or `key.json`."""
