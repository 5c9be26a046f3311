"""The conversions of a whole file."""
