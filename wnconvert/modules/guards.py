"""Name what silently misbehaves on a normalized model, and what to do about it.

Each rule was seen: on torch 2.13 and 2.15, or in the thread it cites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnconvert.errors import KindError
from wnconvert.fitness import has_memory
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

    Raises:
        KindError: it is something else, such as a program of `torch.export`.
    """
    if not isinstance(model, nn.Module):
        what = "give a module, a program of torch.export, or the path of an ONNX file"
        raise KindError(f"a {type(model).__name__} cannot be checked; {what}")
    found = list(computed_below(model))
    concerned = ((rule, rule.concerned(model, found)) for rule in _RULES)
    return tuple(
        Finding(rule.topic, tuple(dict.fromkeys(each.fqn for each in weights)), rule.problem, rule.remedy)
        for rule, weights in concerned
        if weights
    )


class _Rule(NamedTuple):
    """As a `Finding`, and how to select the weights that it concerns from all computed ones of a model."""

    topic: str
    concerned: Callable[[nn.Module, list[Computed]], list[Computed]]
    problem: str
    remedy: str


def _in_attention(model: nn.Module, found: list[Computed]) -> list[Computed]:
    outputs = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    return [each for each in found if each.by == HOOK and id(each.module) in outputs]


def _adapted(model: nn.Module, found: list[Computed]) -> list[Computed]:
    layers = {id(each.module): each for each in found}
    bases = (getattr(module, "base_layer", None) for module in model.modules())
    return [layers[id(base)] for base in bases if id(base) in layers]


def _before_batch_norm(model: nn.Module, found: list[Computed]) -> list[Computed]:
    layers = {id(each.module): each for each in found}
    return [
        layers[id(first)]
        for parent in model.modules()
        for first, second in pairwise(parent.children())
        if id(first) in layers and is_batch_norm(second)
    ]


def _untied(model: nn.Module, found: list[Computed]) -> list[Computed]:
    holders: Counter[int] = Counter(
        tensor.untyped_storage().data_ptr()
        for module in model.modules()
        for tensor in parameters_of(module).values()
        if tensor is not None and has_memory(tensor)
    )
    directions = ((each, _direction(each)) for each in found if each.by != IN_PLACE)
    return [
        each
        for each, direction in directions
        if direction is not None and has_memory(direction) and holders[direction.untyped_storage().data_ptr()] > 1
    ]


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


_RULES = (
    # https://github.com/pytorch/pytorch/issues/78109: attention reads the weight and never calls the module
    _Rule(
        "attention",
        _in_attention,
        "the hook never runs, because the attention reads the weight itself: training g and v changes nothing",
        "fold it, and apply again with wnconvert.apply or torch.nn.utils.parametrizations",
    ),
    # peft merges by ``weight.data += delta``, which falls on a temporary tensor
    _Rule(
        "adapter merge",
        _adapted,
        "merging an adapter into a computed weight is lost without an error",
        "fold these layers before the adapter is added or merged",
    ),
    # https://github.com/pytorch/pytorch/issues/19126
    _Rule(
        "zero channel",
        lambda _, found: [each for each in found if each.by != IN_PLACE and _has_zero_channel(each)],
        "a direction of zeros has no norm: its weights are NaN",
        "give these channels a direction, or apply with wnconvert, which does so with g = 0",
    ),
    _Rule(
        "batch norm fusion",
        _before_batch_norm,
        "fusing with the batch norm behind it is skipped without a word, or fails with a TypeError",
        "fold before fusing",
    ),
    # https://github.com/huggingface/transformers/issues/38870
    _Rule(
        "tied weight",
        _untied,
        "the weight shares memory with another parameter, but not its g: they train apart, and safetensors refuses",
        "fold, tie again, and apply with wnconvert, which keeps ties",
    ),
    # https://github.com/pytorch/pytorch/issues/28594
    _Rule(
        "copy",
        lambda _, found: [each for each in found if each.by == HOOK],
        "after a forward the model cannot be deep-copied, so averaging (EMA, SWA) fails",
        "copy with wnconvert.fold, or migrate to parametrizations",
    ),
    _Rule(
        "quantization",
        lambda _, found: [each for each in found if isinstance(each.module, nn.Linear) or is_convolution(each.module)],
        "quantizers look for torch's own classes and plain weights: these layers stay in floating point, or fail",
        "fold before quantizing",
    ),
    # https://github.com/jik876/hifi-gan/issues/145
    _Rule(
        "initialization",
        lambda _, found: found,
        "initializing the weight now (init_weights, nn.init on .weight) changes nothing: it is computed anew",
        "initialize first and normalize afterwards",
    ),
    _Rule(
        "pickling",
        lambda _, found: [each for each in found if each.by == PARAMETRIZATION],
        "the model as a whole cannot be pickled",
        "save its state_dict(), or fold first",
    ),
    # the backward of torch's kernel can be differentiated, but takes the norms that it gets for constants
    _Rule(
        "second derivatives",
        lambda _, found: [each for each in found if _by_kernel(each)],
        "a gradient by v that is differentiated again (by a Hessian, by MAML) comes out wrong in torch's kernel",
        "fold, and apply wnconvert.WeightNorm(written_out=True)",
    ),
)
