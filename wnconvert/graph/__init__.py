"""What the conversions ask of `torch.fx` graphs and of models: nodes, calls, tensors, copies; no file is known here."""
