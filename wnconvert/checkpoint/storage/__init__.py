"""Bytes: archives, headers, shards, paths, and the thread that writes them."""
