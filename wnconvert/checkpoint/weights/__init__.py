"""The weights of one state dict: split, composed, spelled."""
