"""`headstart export`: write a model of a run for another runtime, and compare its answers there with the run's."""
