"""The schemes, one file each; importing a file registers its scheme."""
