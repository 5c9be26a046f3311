"""One of everything that can be added to wnconvert, one file each."""
