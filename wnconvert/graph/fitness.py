"""What makes a tensor unfit to be normalized, in graphs and in live modules alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def reason_against(tensor: Tensor) -> str | None:
    """Return why a tensor cannot be split into parts, or None if it can."""
    if not isinstance(tensor, nn.Parameter):
        return "it is a buffer, which is not trained"
    if is_lazy(tensor):
        return "it is not initialized yet; run the model once"
    if type(tensor) is not nn.Parameter:
        return f"it is a {type(tensor).__name__}, not a plain parameter"
    if tensor.dtype not in _DTYPES:
        return f"its dtype {tensor.dtype} is none that a norm can be computed in"
    if tensor.numel() == 0:
        return f"it is empty, of shape {tuple(tensor.shape)}"
    if tensor.layout != torch.strided:
        return f"its layout {tensor.layout} is not strided"
    if getattr(tensor, "_backward_hooks", None) or getattr(tensor, "_post_accumulate_grad_hooks", None):
        return "it has gradient hooks, which would be lost"
    return None


def reason_against_layer(module: nn.Module) -> str | None:
    """Return why the weight of a module cannot be split, whatever it is, or None if it can."""
    if getattr(module, "max_norm", None) is not None:
        return "max_norm rewrites the weight in every forward"
    if getattr(module, "sparse", False) is True:
        return "its gradient is sparse, which no normalization can pass on"
    return None
