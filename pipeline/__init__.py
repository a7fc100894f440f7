"""Train and use classifiers: data folders, heads on features, fine-tuning, evaluation, prediction and run folders."""
