"""Fold what others normalized on live modules: hooks, parametrizations, wrappers, and weights that forwards compute."""
