"""Programs of `torch.export`: converted as graphs that hold their tensors, and made programs again."""
