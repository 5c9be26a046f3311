"""Let split weights be loaded from state dicts that spell them otherwise: plain, or in either of torch's layouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnconvert.graph.entries import join, locate
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.torch_private import add_load_hook, load_hooks_of


def respell(state_dict: dict[str, Any], fqn: str, scheme: Scheme, spec: WeightSpec, like: Tensor | None = None) -> bool:
    """Spell a weight as its parts, named after it, whichever way a state dict spells it.

    Args:
        state_dict: what is about to be loaded; it is changed.
        fqn: the weight's key there.
        scheme: the scheme that it is split by.
        spec: its static facts.
        like: the tensor that a plain weight is laid out and rounded as, whole and not part by part, before it is split.

    Returns:
        Whether it was there as a plain weight.
    """
    prefix, _, name = fqn.rpartition(".")
    stored = join(prefix, f"parametrizations.{name}")
    for index, part in enumerate(scheme.parts):
        # "original" is the direction of a scheme whose other parts belong to the parametrization
        spellings = (f"{stored}.original{index}", f"{stored}.0._{part}", f"{stored}.original")
        for spelling in spellings[: 3 if part == scheme.direction else 2]:
            if spelling in state_dict:
                state_dict[f"{fqn}_{part}"] = state_dict.pop(spelling)
    weight = state_dict.pop(fqn, None)
    if not isinstance(weight, Tensor) or tuple(weight.shape) != spec.shape:
        return False
    weight = weight.detach() if like is None else torch.empty_like(like).copy_(weight.detach())
    for part, tensor in scheme.split(weight, replace(spec, dtype=weight.dtype)).items():
        state_dict[f"{fqn}_{part}"] = tensor
    return True


class SplitWeight(NamedTuple):
    """A weight that a graph composes.

    Attributes:
        fqns: its dotted names, more than one if it is tied.
        scheme: the scheme that it is split by.
        spec: its static facts.
    """

    fqns: tuple[str, ...]
    scheme: Scheme
    spec: WeightSpec


class Respelling:
    """A hook that runs before a graph module loads a state dict, and respells the weights that the graph composes.

    It holds no module, and is no part of what the model computes. A pickle must load where wnconvert is not installed,
    so there it becomes a function that takes anything and does nothing.

    Attributes:
        weights: what it respells.
    """

    def __init__(self, weights: Iterable[SplitWeight] = ()) -> None:
        self.weights = list(weights)

    def __call__(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Respell the weights of ``state_dict``; its keys begin with ``prefix``."""
        plain = []
        for weight in self.weights:
            was_plain = [respell(state_dict, prefix + fqn, weight.scheme, weight.spec) for fqn in weight.fqns]
            plain += [weight] if all(was_plain) else []
        for scheme in {weight.scheme for weight in self.weights if weight.scheme.shared}:
            together = [weight for weight in self.weights if weight.scheme == scheme]
            # some of the weights alone say nothing of what all have in common
            if all(weight in plain for weight in together):
                parts = [
                    {part: state_dict[f"{prefix}{weight.fqns[0]}_{part}"] for part in scheme.parts}
                    for weight in together
                ]
                shared = scheme.split_shared(parts, [weight.spec for weight in together])
                state_dict.update({prefix + name: tensor for name, tensor in shared.items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> Respelling:
        return Respelling(self.weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (chain,)


def install(root: nn.Module, weights: Iterable[SplitWeight]) -> None:
    """Let ``root`` load weights that its graph composes from now on."""
    hook = next((hook for _, hook in _hooks(root) if isinstance(hook, Respelling)), None)
    if hook is None:
        hook = Respelling()
        add_load_hook(root, hook)
    hook.weights += weights


def split_weights(root: nn.Module) -> list[SplitWeight]:
    """Return the weights that a graph composes, where ``root`` is one that was converted in this process."""
    return [weight for _, hook in _hooks(root) if isinstance(hook, Respelling) for weight in hook.weights]


def forget_folded(root: nn.Module) -> None:
    """Let ``root`` load the weights that are plain again as such."""
    for key, hook in list(_hooks(root)):
        if isinstance(hook, Respelling):
            hook.weights = [
                weight
                for weight in hook.weights
                if any(locate(root, f"{fqn}_{weight.scheme.direction}") is not None for fqn in weight.fqns)
            ]
            is_done = not hook.weights
        else:
            is_done = isinstance(hook, partial) and (hook.func, hook.args) == (chain, ())  # one that was pickled
        if is_done:
            del load_hooks_of(root)[key]


def _hooks(root: nn.Module) -> Iterator[tuple[int, Any]]:
    """Yield the hooks that run before loading, out of what torch wraps them in."""
    return ((key, getattr(hook, "hook", hook)) for key, hook in load_hooks_of(root).items())
