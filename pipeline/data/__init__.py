"""Turn a folder or an archive of images into labelled examples."""
