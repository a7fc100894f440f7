"""`headstart serve`: a page and an HTTP interface that answer for photographs."""
