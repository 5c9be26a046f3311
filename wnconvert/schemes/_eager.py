"""Whether a computation is nothing but that: another way to the same bits may then be taken."""

from __future__ import annotations

from wnconvert.lazy import Tensor, torch, torch_private


def computes_only(*tensors: Tensor) -> bool:
    """Return whether all are plain tensors, and nobody follows what is computed of them.

    Not so on proxies and tensor subclasses, under `torch.compile`, export, tracing, transformations of torch.func,
    forward-mode derivatives, and modes that watch every function.
    """
    if torch.compiler.is_compiling() or torch_private.is_followed():
        return False
    return {type(tensor) for tensor in tensors} <= {torch.Tensor, torch.nn.Parameter}


def is_differentiated(tensor: Tensor) -> bool:
    """Return whether autograd takes down what is computed of a tensor."""
    return torch.is_grad_enabled() and tensor.requires_grad


def less(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x - y``, in the memory of ``x`` where nobody needs that any more: it must be an intermediate result."""
    return x.sub_(y) if computes_only(x) and not is_differentiated(x) else x - y


def times(x: Tensor, y: Tensor | float) -> Tensor:
    """Return ``x * y``, in the same way."""
    return x.mul_(y) if computes_only(x) and not is_differentiated(x) else x * y


def is_seen_nonzero(number: Tensor) -> bool:
    """Return whether a number is not 0, and may be looked at: nobody follows, and it need not be waited for."""
    return computes_only(number) and number.device.type == "cpu" and number.item() != 0
