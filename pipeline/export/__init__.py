"""`headstart export`: write a model of a run for another runtime, and compare the export's answers with the run's."""
