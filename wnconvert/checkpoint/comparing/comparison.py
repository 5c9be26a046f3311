"""Whether two checkpoints are the same model: their effective weights, across layouts and containers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.comparing.effective import Effective, effective, ordered_bits
from wnconvert.checkpoint.content.difference import bits_equal
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.device import DeviceLike, resolve_device
from wnconvert.errors import NothingToConvertError, OptionError


@dataclass(frozen=True)
class Compared:
    """One tensor of both checkpoints.

    Attributes:
        name: its dotted name in the first, with the path of its state dict.
        layouts: how either holds it.
        equal: whether dtype, shape and bits are the same.
        ulps: most steps between neighbouring numbers that an element is away; None where dtypes differ.
        max_abs: largest difference of an element.
        max_rel: that, as a share of the largest magnitude of the tensor in the first.
        problem: why it cannot be compared (shapes), or None.
    """

    name: str
    layouts: tuple[str, str]
    equal: bool
    ulps: int | None = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    problem: str | None = None

    def within(self, tolerance: float) -> bool:
        """Return whether the tensors are as equal as asked for."""
        return self.equal or (not self.problem and tolerance > 0 and self.max_rel <= tolerance)


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints, tensor by tensor.

    Attributes:
        compared: one for each tensor that both have.
        only_first: names of what only the first has.
        only_second: names of what only the second has.
        tolerance: largest allowed difference, as a share of the largest magnitude of a tensor; 0 asks for equal bits.
    """

    compared: tuple[Compared, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tolerance: float = 0.0

    @property
    def differing(self) -> tuple[Compared, ...]:
        """Those that differ beyond the tolerance, the worst first."""
        beyond = [entry for entry in self.compared if not entry.within(self.tolerance)]
        return tuple(sorted(beyond, key=lambda entry: (entry.problem is None, -entry.max_rel)))

    @property
    def equal(self) -> bool:
        """Whether both have the same tensors with the same bits."""
        return all(entry.equal for entry in self.compared) and not self.only_first and not self.only_second

    @property
    def passed(self) -> bool:
        """Whether both have the same tensors, within the tolerance."""
        return not self.differing and not self.only_first and not self.only_second

    @property
    def summary(self) -> str:
        """What differs, in one line."""
        worst = next((entry for entry in self.compared if not entry.equal), None)
        found = [f"{name!r} is only in one of them" for name in (*self.only_first, *self.only_second)[:1]]
        if worst is not None:
            found.append(f"{worst.name!r}: " + (worst.problem or f"differs by up to {worst.max_abs:.3g}"))
        return "; ".join(found) or "nothing"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, ready for JSON."""
        return {"equal": self.equal, "passed": self.passed, **asdict(self)}


@torch.no_grad()
def verify(
    first: Checkpoint,
    second: Checkpoint,
    *,
    tolerance: float = 0.0,
    reading: Reading | None = None,
    device: DeviceLike = None,
) -> Comparison:
    """Compare what two checkpoints make a model compute with.

    Weights are composed from their parts, in whatever layout these are; all other tensors are compared as they are,
    save those of optimizers. Names are matched with the path to the state dict, then without; what training wrappers
    put into names does not count.

    Args:
        first: the one checkpoint.
        second: the other.
        tolerance: largest allowed difference, as a share of the largest magnitude of each tensor.
        reading: how to read what the files do not say.
        device: where weights are composed; by default as ``reading`` says, or on the CPU. Equal there is equal there.

    Raises:
        CheckpointError: one of the files is damaged.
        OptionError: no device is called so.
        DeviceError: there is no such device here.
        NothingToConvertError: they have no tensor in common.
    """
    reading = reading or Reading()
    if device is not None:
        reading = replace(reading, device=resolve_device(device))
    if not 0 <= tolerance < math.inf:
        raise OptionError(f"tolerance is {tolerance!r}; it must be a number from 0 up")
    own, other = (effective(each, reading) for each in (first, second))
    pairs, left, right = paired(own, other)
    if not pairs:
        raise NothingToConvertError("nothing to compare: the files have no tensor of the same name")
    compared = tuple(_compared(a, b) for a, b in pairs)
    for check in (*first.checks, *second.checks):
        check()
    return Comparison(compared, tuple([each.fqn for each in left]), tuple([each.fqn for each in right]), tolerance)


def paired(
    first: Sequence[Effective], second: Sequence[Effective]
) -> tuple[list[tuple[Effective, Effective]], list[Effective], list[Effective]]:
    """Match tensors by full name; then those that are left by name within the state dicts that have most in common."""
    by_name = {entry.fqn: entry for entry in second}
    pairs = [(entry, by_name[entry.fqn]) for entry in first if entry.fqn in by_name]
    matched = {id(entry) for pair in pairs for entry in pair}
    left = _by_path([entry for entry in first if id(entry) not in matched])
    right = _by_path([entry for entry in second if id(entry) not in matched])
    overlaps = sorted(
        ((len(ours.keys() & theirs.keys()), a, b) for a, ours in left.items() for b, theirs in right.items()),
        key=lambda overlap: -overlap[0],
    )
    for count, a, b in overlaps:
        common = left[a].keys() & right[b].keys()
        if count and len(common) == count:
            pairs += [(left[a].pop(name), right[b].pop(name)) for name in list(left[a]) if name in common]
    rest = [[entry for names in side.values() for entry in names.values()] for side in (left, right)]
    order = {id(entry): index for index, entry in enumerate(first)}
    return sorted(pairs, key=lambda pair: order[id(pair[0])]), rest[0], rest[1]


def _by_path(entries: Sequence[Effective]) -> dict[tuple[Any, ...], dict[str, Effective]]:
    found: dict[tuple[Any, ...], dict[str, Effective]] = defaultdict(dict)
    for entry in entries:
        found[entry.path][entry.name] = entry
    return found


def _compared(first: Effective, second: Effective) -> Compared:
    a, b = first.value(), second.value()
    name, layouts = first.fqn, (first.spelled, second.spelled)
    if bits_equal(a, b):
        return Compared(name, layouts, True)
    if a.shape != b.shape:
        problem = f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ"
        return Compared(name, layouts, False, None, math.inf, math.inf, problem)
    if not all(is_plain(tensor) for tensor in (a, b)):
        return Compared(name, layouts, False, None, math.inf, math.inf, "one of them is of a kind that has no distance")
    largest, scale = _distance(a, b)
    relative = largest / scale if scale > 0 else (math.inf if largest else 0.0)
    return Compared(name, layouts, False, _ulps(a, b), largest, relative)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor holds real numbers, one beside the other, from which others have a distance."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized and not tensor.is_complex()


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the largest difference of an element, and the largest magnitude in ``a``; equal NaNs do not differ."""
    if not a.numel():
        return 0.0, 0.0
    x, y = a.double(), b.double()
    gap = torch.where((x == y) | (x.isnan() & y.isnan()), torch.zeros_like(x), (x - y).abs())
    return float(gap.nan_to_num(nan=math.inf, posinf=math.inf).max()), float(x.abs().nan_to_num().max())


def _ulps(a: Tensor, b: Tensor) -> int | None:
    """Return the most numbers of the dtype that lie between two elements, or None where that has no meaning."""
    if a.dtype != b.dtype or a.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return None
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return None
    if not a.numel():
        return 0
    high, low = ordered_bits(a), ordered_bits(b)
    rough = float((high.double() - low.double()).abs().max())  # in float64, opposite signs may be 2**64 apart
    return int(rough) if rough >= 2**62 else int((high - low).abs().max())
