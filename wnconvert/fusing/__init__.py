"""Fusions on graphs: find affine maps and the layers beside them, and move the one into the other."""
