"""Functions and classes that `import headstart` offers in addition to the commands, for notebooks and scripts."""
