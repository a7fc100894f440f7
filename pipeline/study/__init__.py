"""`headstart study`: how accuracy grows with the number of images, and what more of them would bring."""
