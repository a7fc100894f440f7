"""Image files wherever they are: on a disk, in object storage or on the web, and in tars."""
