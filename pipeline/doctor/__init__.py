"""`headstart doctor`: what this machine has, on one screen to paste into an issue."""
