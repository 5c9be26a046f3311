"""Mean-only batch norm behind the layers of a live model that have composed weights, and its way back into the bias.

The model stays the model: a layer keeps its name and class, and has the normalization as a submodule and two hooks. In
evaluation they give the layer the bias that it will have when all is folded, so its own kernel adds that, and to fold
changes no bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.graph.entries import join
from wnconvert.loading.forms import held_by
from wnconvert.mean_only_batch_norm import MeanOnlyBatchNorm
from wnconvert.torch_private import always_called_of, forward_hooks_of, forward_pre_hooks_of
from wnconvert.weights import expansion

#: the name of the normalization in a layer
NAME = "mean_only"


def add_mean_only_batch_norm(model: nn.Module, *, momentum: float = 0.1) -> tuple[str, ...]:
    """Put a `MeanOnlyBatchNorm` behind each linear layer and convolution of ``model`` that has a composed weight.

    The last layer of a `torch.nn.MultiheadAttention` is left alone, which reads its tensors and does not call it.

    The bias of a layer becomes that of its normalization, as the same parameter, so optimizers go on with it; the keys
    of a layer ``conv`` are ``conv.mean_only.bias`` and ``conv.mean_only.running_mean``. Until it is trained, the model
    does in evaluation what it did.

    Args:
        model: a converted model, or one with torch's own weight norm; it is changed.
        momentum: what share of a running mean is that of the last batch.

    Returns:
        dotted names of the layers.

    Raises:
        KindError: it is no module, or a graph, whose calls are not those of layers.
        NothingToConvertError: it has no such layer, or none without a normalization already.
        OptionError: a momentum that is not between 0 and 1, or a bias that several layers have.
    """
    layers = _layers(model)
    for path, layer in layers.items():
        if hasattr(layer, NAME):
            raise OptionError(f"layer {path!r} already has an attribute {NAME!r}")
        if layer.bias is not None and _count(model, layer.bias) > 1:
            raise OptionError(f"layer {path!r} has its bias in common with another; give each one of its own")
        if not isinstance(layer.bias, (nn.Parameter, type(None))):
            raise OptionError(f"layer {path!r} has a bias that is computed; fold that first")
    if not layers:
        raise NothingToConvertError(
            f"{type(model).__name__!r} has no layer with a composed weight that has no mean-only batch norm yet; "
            "wnconvert.apply makes some"
        )
    norms = {path: _norm(layer, momentum) for path, layer in layers.items()}
    for path, layer in layers.items():
        if layer.bias is not None:
            norms[path].bias = layer.bias
        layer.register_parameter("bias", None)
        layer.add_module(NAME, norms[path].train(layer.training))
        layer.register_forward_pre_hook(_before)
        layer.register_forward_hook(_after, always_call=True)  # it clears up after an error too
    return tuple(layers)


@torch.no_grad()
def fold_mean_only_batch_norm(model: nn.Module) -> tuple[str, ...]:
    """Put the biases back that `add_mean_only_batch_norm` took: ``bias - running_mean``, as evaluation computes them.

    In evaluation the model gives the bits that it gave before, on one device.

    Args:
        model: the model; it is changed.

    Returns:
        dotted names of the layers.

    Raises:
        KindError: it is no module.
        NothingToConvertError: it has no such layer.
    """
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module")
    layers = {path: module for path, module in model.named_modules() if _is_centered(module)}
    if not layers:
        raise NothingToConvertError(
            f"{type(model).__name__!r} has no layer that add_mean_only_batch_norm was applied to"
        )
    for layer in layers.values():
        norm: Any = layer.get_submodule(NAME)
        delattr(layer, NAME)
        layer.__dict__.pop("bias", None)
        for hooks, hook in ((forward_pre_hooks_of(layer), _before), (forward_hooks_of(layer), _after)):
            key = next(key for key, value in hooks.items() if value is hook)
            del hooks[key]
            always_called_of(layer).pop(key, None)
        layer.register_parameter("bias", nn.Parameter(norm.shift().detach(), norm.bias.requires_grad))
    return tuple(layers)


def _before(layer: nn.Module, args: Any) -> None:
    """Give a layer the bias of its evaluation, or none. A module finds this attribute before its parameter."""
    norm: Any = layer.get_submodule(NAME)
    layer.__dict__["bias"] = norm.shift() if _is_bias(norm) else None


def _after(layer: nn.Module, args: Any, output: Tensor | None) -> Tensor | None:
    norm: Any = layer.get_submodule(NAME)
    if output is not None and not _is_bias(norm):  # it is None after an error
        return norm(output)
    if layer.__dict__.get("bias") is None:
        return None
    # deepcopy takes no tensor with a history; it stays there for other threads that run the layer
    layer.__dict__["bias"] = layer.__dict__["bias"].detach()
    return None


def _is_bias(norm: MeanOnlyBatchNorm) -> bool:
    """Whether the layer itself adds what its normalization does; compilers and exporters take no tensor attributes."""
    return not norm.training and not torch.compiler.is_compiling()


def _is_centered(module: nn.Module) -> bool:
    return isinstance(getattr(module, NAME, None), MeanOnlyBatchNorm) and any(
        hook is _after for hook in forward_hooks_of(module).values()
    )


def _layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers with composed weights that have no normalization behind them yet, by name."""
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module")
    if isinstance(model, GraphModule):
        raise KindError("a graph calls functions, and no layers; add mean-only batch norms to the module, in place")
    composed = {form.fqn for form in held_by(model).forms}
    # attention reads the tensors of its last layer and does not call it
    uncalled = {id(each.out_proj) for each in model.modules() if isinstance(each, nn.MultiheadAttention)}
    return {
        path: module
        for path, module in model.named_modules()
        if join(path, expansion.WEIGHT) in composed
        and _units(module)
        and not _is_centered(module)
        and id(module) not in uncalled
    }


def _units(layer: Any) -> tuple[int, int] | None:
    """Return how many output units a layer has, and the dim that indexes them; None where it is no such layer."""
    rule = expansion.rule_of_module(layer)
    if rule is not None and rule.name == "linear":
        return layer.out_features, -1
    if rule is not None and rule.name.startswith("conv"):
        return layer.out_channels, -len(layer.kernel_size) - 1
    return None


def _norm(layer: Any, momentum: float) -> MeanOnlyBatchNorm:
    units, dim = _units(layer) or (0, 0)
    like = next(layer.parameters())  # the weight itself is composed
    norm = MeanOnlyBatchNorm(units, momentum, dim=dim, device=like.device, dtype=like.dtype)
    norm.bias.requires_grad_(like.requires_grad)
    return norm


def _count(model: nn.Module, bias: Tensor) -> int:
    return sum(each is bias for _, each in model.named_parameters(remove_duplicate=False))
