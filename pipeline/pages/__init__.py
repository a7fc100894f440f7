"""Make HTML pages of parts. A page needs no other file, no script and no network."""
