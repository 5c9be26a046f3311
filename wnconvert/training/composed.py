"""The weights that a live model composes, with the tensors that are trained in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from wnconvert.errors import KindError
from wnconvert.loading.forms import Form, held_by
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec


@dataclass(frozen=True)
class Composed:
    """One weight that a model composes by a scheme, which `wnconvert.apply` gave it or torch's own functions.

    Attributes:
        fqn: its dotted name.
        scheme: the scheme.
        spec: its static facts.
        parts: the tensors of the model, by part; with those that all weights share.
        alone: whether nothing else of the model is, or is computed from, its direction: no plain tensor, and no weight
            that is composed in another way.
    """

    fqn: str
    scheme: Scheme
    spec: WeightSpec
    parts: Mapping[str, Tensor]
    alone: bool = True

    @property
    def direction(self) -> Tensor:
        """The part that has the weight's shape."""
        return self.parts[self.scheme.direction]


def composed_weights(model: nn.Module) -> list[Composed]:
    """Return the weights of ``model`` that are composed by schemes, tied ones once.

    Raises:
        KindError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module")
    held = held_by(model)
    found: dict[tuple[int, ...], Composed] = {}
    for form in held.forms:
        scheme = _scheme_of(form)
        tensors = {part: held.tensors[key] for part, key in form.keys.items() if key in held.tensors}
        if scheme is None or form.kept is None or {*scheme.parts} - {*tensors}:
            continue
        weight = Composed(form.fqn, scheme, WeightSpec.of(tensors[scheme.direction], form.kept), tensors)
        found.setdefault(tuple(map(id, tensors.values())), weight)
    plain = {id(tensor) for key, tensor in held.tensors.items() if key not in held.parts}
    ways: dict[int, set[Any]] = {}
    for weight in found.values():
        ways.setdefault(id(weight.direction), set()).add((weight.scheme, weight.spec.kept))
    return [
        replace(weight, alone=id(weight.direction) not in plain and len(ways[id(weight.direction)]) == 1)
        for weight in found.values()
    ]


def _scheme_of(form: Form) -> Scheme | None:
    if isinstance(form.by, Scheme) or form.by is None:
        return form.by
    return SCHEMES.get(form.scheme)() if form.scheme in SCHEMES else None
