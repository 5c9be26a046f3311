"""Pickles: read without running their code, and written without needing the bytes of tensors."""
