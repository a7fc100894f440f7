"""Answer how many images a classifier needs."""
