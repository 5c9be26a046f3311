"""What is to be seen of one composed weight in training, and the row that says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from wnconvert.fitness import is_distributed
from wnconvert.rows import DEAD, magnitude_among, rows_of, units_of, widened
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.training.composed import Composed


@dataclass(frozen=True)
class Limits:
    """When a channel counts as dead or exploding: by its norm, as a multiple of the usual norm at the start.

    Attributes:
        dead: up to that multiple.
        exploding: from that multiple up, or not finite.
    """

    dead: float = DEAD
    exploding: float = 1e2


@dataclass(frozen=True)
class Record:
    """One weight after one step; a number is None where the scheme, the optimizer or the gradient has nothing to show.

    A *row* is what has a magnitude of its own: the elements with the same index of the kept dims, in a layer one
    output channel.

    Attributes:
        step: how many steps were taken.
        weight: its dotted name.
        scheme: name of the scheme.
        norm: the mean of the norms of the rows of the composed weight.
        norm_min: the least of them.
        norm_max: the largest of them.
        g: the mean of the magnitude as it is stored: ``g``, ``gain``, ``gamma``, or ``s = log(g)``.
        g_min: the least magnitude.
        g_max: the largest magnitude.
        angle: by how much the rows of the direction have turned since the last record, in degrees; their mean.
        angle_max: the largest of these angles.
        effective_lr: ``lr / norm(v)**2``, the learning rate of a direction of unit length, where the direction is
            divided by a norm; the mean of the rows. That norm is that of the scheme: sigma, for spectral norm.
        radial: norm of the gradient of the direction along the direction that it was computed at: of each row, or of
            the whole where one number divides all of it. It is zero, up to rounding, where the length does not matter.
        tangential: norm of the rest of that gradient, which turns the direction.
        gradient_g: norm of the gradient of the magnitude.
        dead: how many rows of the composed weight are next to zero, see `Limits`.
        exploding: how many rows are very large, or not finite.
    """

    step: int
    weight: str
    scheme: str
    norm: float | None = None
    norm_min: float | None = None
    norm_max: float | None = None
    g: float | None = None
    g_min: float | None = None
    g_max: float | None = None
    angle: float | None = None
    angle_max: float | None = None
    effective_lr: float | None = None
    radial: float | None = None
    tangential: float | None = None
    gradient_g: float | None = None
    dead: int | None = None
    exploding: int | None = None


#: the fields that are numbers to be drawn, in their order
MEASURES = tuple(field.name for field in fields(Record) if field.name not in {"step", "weight", "scheme"})


class Gauge:
    """Looks at one weight, again and again; it remembers which way the rows of its direction pointed.

    Attributes:
        usual: the median norm of the rows when it was made; 0 where most of them were zero.
    """

    def __init__(self, weight: Composed, common: Mapping[str, Tensor]) -> None:
        """Take the first look: what all norms and angles are compared with.

        Args:
            weight: the weight.
            common: what its scheme must know of all weights together.
        """
        self._aimed = self._aim(weight)
        self._last = self._aimed[0]
        self.usual = float(_norms(weight.scheme, whole_parts(weight), common, weight.spec).median())

    def aim(self, weight: Composed) -> None:
        """Remember the direction at which the next gradient will be computed: after the step it is another."""
        self._aimed = self._aim(weight)

    def look(self, weight: Composed, common: Mapping[str, Tensor], *, aimed: bool | None = False) -> dict[str, Tensor]:
        """Return what `summaries` needs, on the device of the weight; nothing is waited for.

        Args:
            weight: the weight, with its parts as they are now.
            common: what its scheme must know of all weights together.
            aimed: whether its gradient was computed where `aim` was called the last time, and not where it is now;
                None if nobody knows where, so that it cannot be split.

        Returns:
            vectors of one number a row, or of one number: ``norm`` of the composed weight, ``g``, ``apart`` (how far
            the unit rows are from those of the last time), ``divisor``, ``along`` and ``gradient`` (the part of the
            gradient along the direction, and all of it) and ``gradient_g``.
        """
        parts = whole_parts(weight)
        found = {"norm": _norms(weight.scheme, parts, common, weight.spec)}
        magnitude = magnitude_of(weight)
        if magnitude is not None:
            found["g"] = widened(parts[magnitude])
            gradient = weight.parts[magnitude].grad
            if gradient is not None:
                found["gradient_g"] = torch.linalg.vector_norm(widened(_whole(gradient)))
        units, lengths = now = units_of(rows_of(parts[weight.scheme.direction], weight.spec))
        found["apart"] = torch.linalg.vector_norm(units - self._last.to(units), dim=1)
        self._last = units
        divisor = weight.scheme.divisor(parts, weight.spec)
        if divisor is not None:
            found["divisor"] = widened(divisor)
        gradient = weight.direction.grad
        if gradient is not None and aimed is not None:
            units, lengths = (x.to(units) for x in self._aimed) if aimed else now
            rows = rows_of(_whole(gradient), weight.spec)
            along, norms = torch.linalg.vecdot(rows, units), torch.linalg.vector_norm(rows, dim=1)
            if divisor is not None and divisor.numel() == 1:  # the length that does not matter is that of the whole
                length = torch.linalg.vector_norm(lengths)
                along = torch.linalg.vecdot(along, lengths.squeeze(1)) / torch.where(length == 0, 1.0, length)
                norms = torch.linalg.vector_norm(norms)
            found |= {"along": along, "gradient": norms}
        self._aimed = now
        return {name: vector.reshape(-1) for name, vector in found.items()}

    def _aim(self, weight: Composed) -> tuple[Tensor, Tensor]:
        return units_of(rows_of(_whole(weight.direction), weight.spec))


def summaries(
    looks: Sequence[Mapping[str, Tensor]], usual: Sequence[float], rates: Sequence[float | None], limits: Limits
) -> list[dict[str, Any]]:
    """Return the numbers of each `Record`, of what was seen of all weights; they are fetched from the device at once.

    Args:
        looks: of each weight what `Gauge.look` gave.
        usual: of each weight the usual norm of its rows.
        rates: of each weight the learning rate of its direction, if it has one.
        limits: of dead and exploding rows.
    """
    if not looks:
        return []
    flat = [vector for look in looks for vector in look.values()]
    fetched = iter(
        torch.cat([x.to(flat[0].device) for x in flat]).to("cpu", torch.float64).split_with_sizes([*map(len, flat)])
    )
    here = [{name: next(fetched) for name in look} for look in looks]
    found: list[dict[str, Any]] = [{} for _ in here]
    for name in ("norm", "g"):
        _reduce(found, here, name, {name: "mean", f"{name}_min": "min", f"{name}_max": "max"})
    # of the chord, because the cosine of an angle below 0.02 degrees is 1 in float32
    _compute(here, "angle", lambda apart: torch.rad2deg(2 * torch.asin((apart / 2).clamp(max=1))), "apart")
    _reduce(found, here, "angle", {"angle": "mean", "angle_max": "max"})
    _compute(here, "shrinking", lambda divisor: divisor**-2, "divisor")
    _reduce(found, here, "shrinking", {"effective_lr": "mean"})
    _compute(here, "radial", torch.square, "along")
    _compute(here, "tangential", lambda along, all_of_it: (all_of_it**2 - along**2).clamp(min=0), "along", "gradient")
    for name in ("radial", "tangential"):
        _reduce(found, here, name, {name: "sum"})
    for look, norm in zip(here, usual, strict=True):
        # a weight of zeros at the start says nothing of what is usual: the other rows do
        look["usual"] = torch.full_like(look["norm"], norm if norm > 0 else float(look["norm"].median()))
    _compute(here, "dead", lambda norm, usual: (norm <= usual * limits.dead).double(), "norm", "usual")
    _compute(here, "exploding", lambda norm, usual: _explodes(norm, usual * limits.exploding), "norm", "usual")
    for name in ("dead", "exploding"):
        _reduce(found, here, name, {name: "sum"})
    for values, look, rate in zip(found, here, rates, strict=True):
        _finish(values, look, rate)
    return found


def _explodes(norms: Tensor, limit: Tensor) -> Tensor:
    fine = (norms < limit) | (norms == 0)  # what is no number is not smaller
    return (~fine).double()


def _finish(values: dict[str, Any], look: Mapping[str, Tensor], rate: float | None) -> None:
    for name in {"radial", "tangential"} & {*values}:
        values[name] = math.sqrt(values[name])
    values |= {name: int(values[name]) for name in ("dead", "exploding")}
    if "gradient_g" in look:
        values["gradient_g"] = look["gradient_g"].item()
    shrinking = values.pop("effective_lr", None)
    if shrinking is not None and rate is not None:
        values["effective_lr"] = rate * shrinking


def _compute(looks: Sequence[dict[str, Tensor]], name: str, function: Callable[..., Tensor], *arguments: str) -> None:
    """Give each weight that has the vectors ``arguments`` what the function makes of them."""
    those = [look for look in looks if arguments[0] in look]
    if those:
        joined = function(*(torch.cat([look[argument] for look in those]) for argument in arguments))
        for look, part in zip(those, joined.split_with_sizes([len(look[arguments[0]]) for look in those]), strict=True):
            look[name] = part


def _reduce(
    found: Sequence[dict[str, Any]], looks: Sequence[Mapping[str, Tensor]], name: str, how: Mapping[str, str]
) -> None:
    """Reduce the vector ``name`` of each weight that has it; all weights at once, for there may be many small ones."""
    those = [(values, look[name]) for values, look in zip(found, looks, strict=True) if name in look]
    if those:
        joined, lengths = torch.cat([x for _, x in those]), torch.tensor([len(x) for _, x in those])
        for field, reduction in how.items():
            reduced = torch.segment_reduce(joined, reduction, lengths=lengths).tolist()
            for (values, _), value in zip(those, reduced, strict=True):
                values[field] = value


def magnitude_of(weight: Composed) -> str | None:
    """Return the part that scales the direction, or None where nothing that is trained does."""
    return magnitude_among(weight.parts, weight.scheme)


def whole_parts(weight: Composed) -> dict[str, Tensor]:
    """Return the parts of a weight as they are in one process."""
    return {part: _whole(tensor) for part, tensor in weight.parts.items()}


def gathered(weights: Sequence[Composed]) -> list[dict[str, Tensor]]:
    """Return for each weight what its scheme must know of all weights that share a part with it."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, weight in enumerate(weights):
        if weight.scheme.shared:
            groups.setdefault(tuple(id(weight.parts[part]) for part in weight.scheme.shared), []).append(index)
    found: list[dict[str, Tensor]] = [{} for _ in weights]
    for members in groups.values():
        parts, specs = [whole_parts(weights[each]) for each in members], [weights[each].spec for each in members]
        common = weights[members[0]].scheme.gather(parts, specs)
        for each in members:
            found[each] = common
    return found


def _norms(scheme: Scheme, parts: Mapping[str, Tensor], common: Mapping[str, Tensor], spec: WeightSpec) -> Tensor:
    """Return the norms of the rows of the composed weight."""
    return torch.linalg.vector_norm(rows_of(scheme.compose({**parts, **common}, spec), spec), dim=1)


def _whole(x: Tensor) -> Tensor:
    """Return ``x`` without gradients, gathered from all processes that hold it together."""
    x = x.detach()
    whole: Tensor = x.full_tensor() if is_distributed(x) else x  # type: ignore[attr-defined]
    return whole if whole.layout == torch.strided else whole.to_dense()
