"""What those who train a model with composed weights need."""
