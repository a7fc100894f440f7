"""The functions that `import headstart` offers to notebooks and scripts, beside the commands."""
