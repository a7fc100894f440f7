"""Build HTML pages from parts, such as tables and charts. A page needs no other file, no script and no network."""
