"""Data-dependent initialization: pre-activations of mean 0 and variance 1 at the start."""
