"""What there is to be seen of the weights in a file: of each, and of two."""
