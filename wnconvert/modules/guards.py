"""Name what silently misbehaves on a normalized model, and what to do about it.

Each rule was seen: on torch 2.13 and 2.15, or in the thread it cites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.graph.entries import join
from wnconvert.modules.computed import HOOK, IN_PLACE, PARAMETRIZATION, Computed, computed_below
from wnconvert.modules.hooks import WEIGHT_NORM, kind_of
from wnconvert.modules.normalized import normalizations
from wnconvert.report import Finding
from wnconvert.schemes.weight_norm import has_kernel
from wnconvert.torch_private import (
    forward_pre_hooks_of,
    is_batch_norm,
    is_convolution,
    is_weight_norm_step,
    parameters_of,
)


def check(model: nn.Module) -> tuple[Finding, ...]:
    """Return what will go wrong without a word on ``model`` because it carries normalized weights; nothing is changed.

    It knows torch's hooks and parametrizations, and what `wnconvert.apply` converted in place. Of a traced model only
    such modules are looked at, not its nodes.

    Args:
        model: any module.
    """
    found = list(computed_below(model))
    return tuple(finding for rule in _RULES for finding in rule(model, found))


def _attention(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """https://github.com/pytorch/pytorch/issues/78109: attention reads the weight and never calls the module."""
    outputs = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    deaf = [each for each in found if each.by == HOOK and id(each.module) in outputs]
    if deaf:
        yield Finding(
            "attention",
            _names(deaf),
            "the hook never runs, because the attention reads the weight itself: training g and v changes nothing",
            "fold it, and apply again with wnconvert.apply or torch.nn.utils.parametrizations",
        )


def _adapters(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """Peft merges by ``weight.data += delta``, which falls on a temporary tensor."""
    layers = {id(each.module): each for each in found}
    bases = (getattr(module, "base_layer", None) for module in model.modules())
    adapted = [layers[id(base)] for base in bases if id(base) in layers]
    if adapted:
        yield Finding(
            "adapter merge",
            _names(adapted),
            "merging an adapter into a computed weight is lost without an error",
            "fold these layers before the adapter is added or merged",
        )


def _zero_channels(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """https://github.com/pytorch/pytorch/issues/19126."""
    zero = [each for each in found if each.by != IN_PLACE and _has_zero_channel(each)]
    if zero:
        yield Finding(
            "zero channel",
            _names(zero),
            "a direction of zeros has no norm: its weights are NaN",
            "give these channels a direction, or apply with wnconvert, which does so with g = 0",
        )


def _fusion(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    layers = {id(each.module): each for each in found}
    before_norm = [
        layers[id(first)]
        for parent in model.modules()
        for first, second in pairwise(parent.children())
        if id(first) in layers and is_batch_norm(second)
    ]
    if before_norm:
        yield Finding(
            "batch norm fusion",
            _names(before_norm),
            "fusing with the batch norm behind it is skipped without a word, or fails with a TypeError",
            "fold before fusing",
        )


def _copies(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """https://github.com/pytorch/pytorch/issues/28594."""
    hooked = [each for each in found if each.by == HOOK]
    if hooked:
        yield Finding(
            "copy",
            _names(hooked),
            "after a forward the model cannot be deep-copied, so averaging (EMA, SWA) fails",
            "copy with wnconvert.fold, or migrate to parametrizations",
        )


def _ties(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """https://github.com/huggingface/transformers/issues/38870."""
    holders: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, tensor in parameters_of(module).items():
            if tensor is not None and not tensor.is_meta and tensor.layout == torch.strided:
                holders.setdefault(tensor.untyped_storage().data_ptr(), []).append(join(path, name))
    directions = {id(each): _direction(each) for each in found}
    untied = []
    for each in found:
        direction = directions[id(each)]
        if direction is None or direction.is_meta or each.by == IN_PLACE:
            continue
        if len(holders.get(direction.untyped_storage().data_ptr(), ())) > 1:
            untied.append(each)
    if untied:
        yield Finding(
            "tied weight",
            _names(untied),
            "the weight shares memory with another parameter, but not its g: they train apart, and safetensors refuses",
            "fold, tie again, and apply with wnconvert, which keeps ties",
        )


def _quantizers(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    quantizable = [each for each in found if isinstance(each.module, nn.Linear) or is_convolution(each.module)]
    if quantizable:
        yield Finding(
            "quantization",
            _names(quantizable),
            "quantizers look for torch's own classes and plain weights: these layers stay in floating point, or fail",
            "fold before quantizing",
        )


def _initialization(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """https://github.com/jik876/hifi-gan/issues/145."""
    if found:
        yield Finding(
            "initialization",
            _names(found),
            "initializing the weight now (init_weights, nn.init on .weight) changes nothing: it is computed anew",
            "initialize first and normalize afterwards",
        )


def _pickling(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    refusing = [each for each in found if each.by == PARAMETRIZATION]
    if refusing:
        yield Finding(
            "pickling",
            _names(refusing),
            "the model as a whole cannot be pickled",
            "save its state_dict(), or fold first",
        )


def _second_derivatives(model: nn.Module, found: list[Computed]) -> Iterator[Finding]:
    """The backward of torch's kernel can be differentiated, but takes the norms that it gets for constants."""
    wrong = [each for each in found if _by_kernel(each)]
    if wrong:
        yield Finding(
            "second derivatives",
            _names(wrong),
            "a gradient by v that is differentiated again (by a Hessian, by MAML) comes out wrong in torch's kernel",
            "fold, and apply wnconvert.WeightNorm(twice_differentiable=True)",
        )


_RULES: tuple[Callable[[nn.Module, list[Computed]], Iterator[Finding]], ...] = (
    _attention,
    _adapters,
    _zero_channels,
    _fusion,
    _ties,
    _copies,
    _quantizers,
    _initialization,
    _pickling,
    _second_derivatives,
)


def _direction(each: Computed) -> Tensor | None:
    """Return the stored tensor that has the weight's shape."""
    if each.by == HOOK:
        for part in ("v", "orig"):
            tensor: Any = parameters_of(each.module).get(f"{each.name}_{part}")
            if tensor is not None:
                return tensor
    elif each.by == PARAMETRIZATION:
        stored = each.module.parametrizations[each.name]  # type: ignore[index]
        tensor = getattr(stored, "original1", None)
        return stored.original if tensor is None and hasattr(stored, "original") else tensor
    return None


def _by_kernel(each: Computed) -> bool:
    """Return whether torch's kernel composes a weight, one way or another."""
    if each.by == IN_PLACE:
        kept = normalizations(each.module)[each.name]
        return not kept.scheme.has_second_derivatives(kept.spec)
    direction = _direction(each)
    if direction is None:
        return False
    if each.by == HOOK:
        hooks: Any = forward_pre_hooks_of(each.module).values()
        dims = [hook.dim for hook in hooks if kind_of(hook) is WEIGHT_NORM and hook.name == each.name]
    else:
        stored: Any = each.module.parametrizations[each.name]  # type: ignore[index]
        dims = [step.dim for step in stored if is_weight_norm_step(step)]
    return any(has_kernel(dim, direction.dim()) for dim in dims)


@torch.no_grad()
def _has_zero_channel(each: Computed) -> bool:
    direction = _direction(each)
    if direction is None or direction.is_meta:
        return False
    stored = each.module if each.by == HOOK else each.module.parametrizations[each.name]  # type: ignore[index]
    g = getattr(stored, f"{each.name}_g" if each.by == HOOK else "original0", None)
    if g is None or g.dim() == 0:
        return not bool(direction.any())
    reduced = tuple(dim for dim, size in enumerate(g.shape) if size == 1)
    return bool((torch.linalg.vector_norm(direction, float("inf"), reduced) == 0).any()) if reduced else False


def _names(found: list[Computed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.fqn for each in found))
