"""The settings of `headstart demo`: the number of images."""

DEMO_IMAGES = 1000
