"""How many images `demo` draws."""

DEMO_IMAGES = 1000
