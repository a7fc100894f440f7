"""Turn a folder, a manifest, tars or an archive of images into labelled examples."""
