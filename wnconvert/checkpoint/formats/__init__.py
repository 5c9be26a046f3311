"""The containers, one file each; importing a file registers its format."""
