"""`headstart demo`: both phases on drawn cats and dogs."""
