"""`headstart demo`: run both phases on drawings of cats and dogs."""
