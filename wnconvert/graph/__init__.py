"""Weighted ops and weight expressions in `torch.fx` graphs; nothing here knows of files."""
