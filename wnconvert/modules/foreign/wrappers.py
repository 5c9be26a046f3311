"""Fold modules that wrap another one to normalize its weight, and put the wrapped module in their place.

Two kinds are known: the ``SpectralNorm(nn.Module)`` that many GAN repositories copied from
https://github.com/christiancosgrove/pytorch-spectral-normalization-gan, with ``weight_bar``, ``weight_u`` and
``weight_v``; and the layers of peft that carry a DoRA adapter (https://arxiv.org/abs/2402.09353).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from wnconvert.graph.entries import join
from wnconvert.modules.inplace import HOW
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.torch_private import children_of, parameters_of
from wnconvert.weights.splitting import normal_tensors

#: the method by which a copied ``SpectralNorm`` sets its module's weight before each forward
_ITERATE = "_update_u_v"


@normal_tensors()
def fold_wrappers(model: nn.Module, selection: Selection) -> tuple[nn.Module, Report]:
    """Unwrap every wrapped module, with the weight that a forward of the wrapper would use.

    A copied ``SpectralNorm`` iterates in each forward, also in evaluation; its weight is that of the next forward. A
    DoRA layer adds its parts to the output instead of composing a weight, so the merged weight gives that output up to
    rounding.

    Returns:
        the model, or what it wrapped if it is a wrapper itself, and the report.
    """
    converted: list[Converted] = []
    skipped: list[Skipped] = []
    unwrapped: dict[int, nn.Module] = {}
    for path, module in list(model.named_modules()):
        kind = next((kind for kind in _KINDS if kind[0](module)), None)
        if kind is None:
            continue
        _, scheme, inner_of, unwrap = kind
        inner = inner_of(module)
        fqn = join(path, getattr(module, "name", "weight"))
        weight = max(inner.parameters(recurse=False), key=lambda parameter: parameter.numel())
        reason = selection.reason_against(WeightedOp(fqn, (), tuple(weight.shape), weight.dtype))
        keys = tuple(join(path, key) for key, _ in module.named_parameters())
        reason = reason or unwrap(module)
        if reason is not None:
            skipped.append(Skipped(fqn, "", reason))
            continue
        unwrapped[id(module)] = inner
        converted.append(Converted(fqn, "", scheme, keys, how=HOW, plain=True))
    for parent in list(model.modules()):
        children = children_of(parent)
        for name, child in children.items():
            if id(child) in unwrapped:
                children[name] = unwrapped[id(child)]
    return unwrapped.get(id(model), model), Report(tuple(converted), tuple(skipped))


def _is_spectral_wrapper(module: Any) -> bool:
    inner, name = getattr(module, "module", None), getattr(module, "name", None)
    if not isinstance(inner, nn.Module) or not isinstance(name, str) or not hasattr(module, _ITERATE):
        return False
    return all(f"{name}_{part}" in parameters_of(inner) for part in ("bar", "u", "v"))


def _unwrap_spectral(module: Any) -> Reason | None:
    inner, name = module.module, module.name
    getattr(module, _ITERATE)()
    parameters = parameters_of(inner)
    trains = getattr(inner, f"{name}_bar").requires_grad
    value = nn.Parameter(getattr(inner, name).detach().clone(), trains)
    inner.__dict__.pop(name, None)
    for part in ("bar", "u", "v"):
        del parameters[f"{name}_{part}"]
    entries = [(name, value), *parameters.items()]
    parameters.clear()
    parameters.update(entries)
    return None


def _is_dora_layer(module: Any) -> bool:
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None or not isinstance(module, tuners.BaseTunerLayer):
        return False
    return any(getattr(module, "use_dora", {}).values())


def _unwrap_dora(module: Any) -> Reason | None:
    try:
        module.merge(safe_merge=True)
    except ValueError as error:
        return Why.FAILS(refusal=error)
    return None


_Kind = tuple[Callable[[Any], bool], str, Callable[[Any], nn.Module], Callable[[Any], "Reason | None"]]

#: how to know a wrapper, what it is called, what it wraps, and how to fold it: which returns a reason if it cannot be
_KINDS: tuple[_Kind, ...] = (
    (_is_spectral_wrapper, "spectral norm wrapper", lambda module: module.module, _unwrap_spectral),
    (_is_dora_layer, "DoRA", lambda module: module.get_base_layer(), _unwrap_dora),
)
