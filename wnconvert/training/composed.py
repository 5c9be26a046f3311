"""The weights that a live model composes, with the tensors that are trained in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class CurrentWeights:
    """Composed weights of a model, whose parts are looked up anew each time: they may be cast, moved or replaced.

    Attributes:
        weights: what was found.
    """

    def __init__(self, model: nn.Module, weights: Sequence[Composed]) -> None:
        self.weights = tuple(weights)
        holders = {
            id(tensor): (module, name)
            for module in model.modules()
            for named in (module.named_parameters, module.named_buffers)
            for name, tensor in named(recurse=False, remove_duplicate=False)
        }
        self._held = [{part: holders[id(x)] for part, x in weight.parts.items()} for weight in weights]

    def now(self) -> list[Composed]:
        """Return the weights with their parts as they are now, without those that are composed no longer."""
        found = (self._now(weight, held) for weight, held in zip(self.weights, self._held, strict=True))
        return [weight for weight in found if weight is not None]

    def _now(self, weight: Composed, held: Mapping[str, tuple[nn.Module, str]]) -> Composed | None:
        parts = {part: getattr(module, name, None) for part, (module, name) in held.items()}
        same = all(parts[part] is tensor for part, tensor in weight.parts.items())
        if same and weight.direction.dtype == weight.spec.dtype:
            return weight
        there = {part: tensor for part, tensor in parts.items() if isinstance(tensor, Tensor)}
        if len(there) < len(parts) or there[weight.scheme.direction].shape != weight.spec.shape:
            return None
        return replace(weight, spec=WeightSpec.of(there[weight.scheme.direction], weight.spec.kept), parts=there)


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
