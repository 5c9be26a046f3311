"""The weights in a graph: which there are, and how one is split, composed and put back."""
