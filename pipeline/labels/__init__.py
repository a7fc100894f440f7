"""Find likely label errors, and correct them."""
