"""What a file holds once it is read: the object tree, tensors by name, ties, tensors that are computed when needed."""
