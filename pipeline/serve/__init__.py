"""`headstart serve`: a page and an HTTP interface that classify photographs."""
