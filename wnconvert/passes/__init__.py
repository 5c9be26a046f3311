"""torch.fx passes, each usable alone and in any `PassManager`."""
