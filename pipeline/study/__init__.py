"""`headstart study`: measure how accuracy grows with the number of images, and forecast the gain from more images."""
