"""Which tensors of a converted model stand for which of the model, and what they must be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import wnconvert
from tests.fuzz.observing import buffers
from wnconvert.scheme import Scheme, WeightSpec


class DifferenceError(AssertionError):
    """The converted model is not the model, or the user's own was touched."""


class Twins:
    """Which tensors of a converted model stand for which of the reference.

    A converted weight has parts. The gradient that the parts must get is that of `Scheme.compose`, given the gradient
    that the weight gets in the reference.

    Args:
        reference: the model.
        converted: the converted one.
        report: of the conversion.
        scheme: the scheme.
        partial: the converted model may lack what its graph does not use, and its second names.
    """

    def __init__(
        self,
        reference: nn.Module,
        converted: nn.Module,
        report: wnconvert.Report,
        scheme: Scheme,
        partial: bool = False,
    ) -> None:
        self.reference, self.converted, self.scheme, self.partial = reference, converted, scheme, partial
        names: dict[int, list[str]] = {}
        for name, parameter in reference.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        owners = {name: group for group in names.values() for name in group}
        #: weight -> all its names, and the names of its parts
        self.groups: dict[str, list[str]] = {}
        self.specs: dict[str, WeightSpec] = {}
        for entry in report.converted:
            if entry.fqn not in owners:
                raise DifferenceError(f"{entry.fqn} is reported as converted, and is no parameter")
            weight = reference.get_parameter(entry.fqn)
            kept = tuple(dim for dim in range(weight.dim()) if dim not in (entry.dims or ()))
            self.groups[entry.fqn] = owners[entry.fqn]
            self.specs[entry.fqn] = WeightSpec.of(weight, kept)
        if partial:
            self._leave_out_what_is_not_there()
        self.of_part = {
            f"{name}_{part}": (fqn, part)
            for fqn, group in self.groups.items()
            for name in group
            for part in scheme.parts
        }
        self.new_buffers = {f"buffer {name}" for name in self.of_part}
        self.converted_names = {name for entry in report.converted for name in owners[entry.fqn]}

    def _leave_out_what_is_not_there(self) -> None:
        """Keep to the names that a partial copy still has."""
        there = {name for name, _ in self.converted.named_parameters(remove_duplicate=False)}
        part = self.scheme.direction
        for fqn, group in list(self.groups.items()):
            spec, kept = self.specs.pop(fqn), [name for name in group if f"{name}_{part}" in there]
            del self.groups[fqn]
            if kept:
                self.groups[kept[0]], self.specs[kept[0]] = kept, spec

    def common(self, actual: dict[str, Any], expected: dict[str, Any]) -> list[str]:
        """Return the names of facts that both must have: buffers that are parts are in the converted model only."""
        if self.partial:
            return [name for name in expected if name in actual or not name.startswith("buffer ")]
        return [*expected, *(name for name in actual if name not in expected and name not in self.new_buffers)]

    def check_names(self) -> None:
        """The keys are those of the model, with parts in the place of weights."""
        shared = set(self.scheme.shared)
        actual = [key for key in self.converted.state_dict() if key not in shared]
        wanted: list[str] = []
        for key in self.reference.state_dict():
            wanted += [f"{key}_{part}" for part in self.scheme.parts] if key in self.converted_names else [key]
        if self.scheme.state:
            actual, wanted = sorted(actual), sorted(wanted)
        if actual != wanted:
            raise DifferenceError(f"the keys differ: {actual} instead of {wanted}")

    def check_values(self) -> None:
        """All parameters have the values of the reference's, converted ones when they are composed."""
        if self.partial:
            return
        theirs = dict(self.converted.named_parameters(remove_duplicate=False))
        ours = dict(self.reference.named_parameters(remove_duplicate=False))
        for name, parameter in ours.items():
            if name in self.converted_names:
                continue
            if name not in theirs:
                raise DifferenceError(f"the parameter {name} is not there")
            same_tensor(theirs[name], parameter, f"the parameter {name}")
        extra = theirs.keys() - ours.keys() - self.of_part.keys() - set(self.scheme.shared)
        if extra:
            raise DifferenceError(f"there are other parameters: {sorted(extra)}")
        with torch.no_grad():
            for fqn, weight in self._composed(self._parts()).items():
                try:
                    same_or_close(weight, ours[fqn].detach())
                except (AssertionError, KeyError) as error:
                    raise DifferenceError(f"the weight {fqn} has other values: {error}") from None

    def gradients(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients that the parameters of the converted model must have."""
        wanted = {name: gradient for name, gradient in expected.items() if name not in self.converted_names}
        with torch.enable_grad():
            parts = self._parts()
            weights = self._composed(parts)
            leaves = [x for own in parts.values() for x in own.values() if x.requires_grad]
            leaves = list({id(x): x for x in leaves}.values())
            pairs = [(weight, expected[fqn]) for fqn, weight in weights.items() if fqn in expected]
            if pairs and leaves:
                outs, grads = zip(*pairs, strict=True)
                found = torch.autograd.grad(outs, leaves, grads, allow_unused=True)
                by_leaf = {id(x): gradient for x, gradient in zip(leaves, found, strict=True) if gradient is not None}
                for name, (fqn, part) in self.of_part.items():
                    if id(parts[fqn][part]) in by_leaf:
                        wanted[name] = by_leaf[id(parts[fqn][part])]
                for part in self.scheme.shared:
                    leaf = next(iter(parts.values()))[part]
                    if id(leaf) in by_leaf:
                        wanted[part] = by_leaf[id(leaf)]
        if self.partial:
            there = {name for name, _ in self.converted.named_parameters(remove_duplicate=False)}
            wanted = {name: gradient for name, gradient in wanted.items() if name in there}
        return wanted

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """Return fresh leaves with the values of the parts of each weight; the shared parts are the same for all."""
        tensors = {**dict(self.converted.named_parameters(remove_duplicate=False))}
        tensors |= dict(self.converted.named_buffers(remove_duplicate=False))

        def leaf(name: str) -> Tensor:
            if name not in tensors:
                raise DifferenceError(f"the part {name} is not there")
            return tensors[name].detach().clone().requires_grad_(tensors[name].requires_grad)

        shared = {part: leaf(part) for part in self.scheme.shared if self.groups}
        return {fqn: {**{p: leaf(f"{fqn}_{p}") for p in self.scheme.parts}, **shared} for fqn in self.groups}

    def _composed(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        specs = [self.specs[fqn] for fqn in parts]
        gathered = self.scheme.gather(list(parts.values()), specs) if parts else {}
        return {fqn: self.scheme.compose({**own, **gathered}, self.specs[fqn]) for fqn, own in parts.items()}


def same_or_close(actual: Tensor, expected: Tensor, **tolerance: float) -> None:
    """Require close values; `torch.testing.assert_close` is asked only where the bits differ, for it takes its time."""
    comparable = actual.layout is expected.layout is torch.strided and actual.dtype is expected.dtype
    if not (comparable and torch.equal(actual, expected)):
        torch.testing.assert_close(actual, expected, equal_nan=True, **tolerance)


def same_tensor(actual: Tensor, expected: Tensor, what: str) -> None:
    """Require the same bits, strides, and whether there is a gradient."""
    for fact in ("dtype", "shape", "requires_grad"):
        if getattr(actual, fact) != getattr(expected, fact):
            raise DifferenceError(f"{what} has {fact} {getattr(actual, fact)}, not {getattr(expected, fact)}")
    if actual.stride() != expected.stride():
        raise DifferenceError(f"{what} has strides {actual.stride()}, not {expected.stride()}")
    if not torch.equal(actual, expected) and not torch.allclose(actual, expected, 0, 0, equal_nan=True):
        raise DifferenceError(f"{what} has other bits")


def same_tensors(actual: nn.Module, expected: nn.Module, what: str) -> None:
    """Require the same keys in the same order, the same tensors, ties, and which of them are parameters."""
    keys, wanted = list(actual.state_dict()), list(expected.state_dict())
    if keys != wanted:
        raise DifferenceError(f"{what} has the keys {keys} instead of {wanted}")
    ours = dict(actual.named_parameters(remove_duplicate=False))
    theirs = dict(expected.named_parameters(remove_duplicate=False))
    if list(ours) != list(theirs):
        raise DifferenceError(f"{what} has the parameters {list(ours)} instead of {list(theirs)}")
    for name, parameter in theirs.items():
        same_tensor(ours[name], parameter, f"{what}: {name}")
    tied = [[name for name in theirs if theirs[name] is each] for each in expected.parameters()]
    tied_now = [[name for name in ours if ours[name] is each] for each in actual.parameters()]
    if tied != tied_now:
        raise DifferenceError(f"{what} ties {tied_now} instead of {tied}")
    if buffers(actual) != buffers(expected):
        raise DifferenceError(f"{what} has other buffers")
