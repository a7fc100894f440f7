"""From a folder or an archive to labelled examples."""
