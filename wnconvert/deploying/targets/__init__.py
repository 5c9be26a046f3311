"""One kind of artifact a file."""
