"""See what composed weights do in training."""
