"""The fusions, one per file."""
