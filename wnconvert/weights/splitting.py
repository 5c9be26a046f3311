"""Split the chosen weights of a model, compare, and say which were skipped and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError
from wnconvert.fitness import reason_against, reason_against_change
from wnconvert.graph.entries import Edits, Entry, has_attribute
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.selection import Dim, Selection, WeightedOp, kept_dims
from wnconvert.verification import change
from wnconvert.weights.padding import padding_of_owners


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Let new tensors be such as can be trained, also where the caller infers; what is computed has no gradient."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass
class Split:
    """A weight that was split and compared.

    Attributes:
        info: the weight as a user sees it.
        tensor: the plain weight.
        owners: the places that hold it.
        spec: its static facts.
        parts: its parts, by name.
        padding: rows that no op gives a gradient.
        error: the largest absolute change of an element; 0.0 where composing gives the very bits.
    """

    info: WeightedOp
    tensor: Tensor
    owners: list[Entry]
    spec: WeightSpec
    parts: dict[str, Tensor]
    padding: frozenset[int] = frozenset()
    error: float = 0.0

    @property
    def targets(self) -> dict[str, str]:
        """Dotted names of the parts, by part name."""
        return {name: f"{self.info.fqn}_{name}" for name in self.parts}


class Splitter:
    """Splits weights one after another, and compares them once all are known; all of it within `normal_tensors`.

    Args:
        root: the model; it holds the parts that all weights have in common.
        scheme: the scheme.
        dim: the kept dim.
        selection: which weights.
        reserved: suffixes besides the parts' that must be free beside each weight.

    Attributes:
        skipped: what was not split, and why.
        shared: the parts that all weights have in common; complete after `verified`.
    """

    def __init__(
        self, root: nn.Module, scheme: Scheme, dim: Dim, selection: Selection, reserved: tuple[str, ...] = ()
    ) -> None:
        self._root = root
        self._scheme = scheme
        self._dim = dim
        self._selection = selection
        self._suffixes = (*scheme.parts, *reserved)
        self._splits: list[Split] = []
        self.skipped: list[Skipped] = []
        self.shared: dict[str, Tensor] = {}

    def add(
        self,
        info: WeightedOp,
        tensor: Tensor,
        owners: list[Entry],
        obstacle: Reason | None,
        padding: frozenset[int] | None = None,
    ) -> None:
        """Split a weight, or note why it is skipped.

        Args:
            info: the weight as a user sees it.
            tensor: the plain weight.
            owners: the places that hold it.
            obstacle: a reason against it that was found elsewhere.
            padding: rows that no op gives a gradient; by default, those that the owners say are padding.
        """
        reason = self._selection.reason_against(info) or obstacle or self._reason_against(tensor, owners)
        if reason is None:
            try:
                kept = kept_dims(self._dim, info)
            except OptionError as error:
                reason = Why.DIM(error=error)
        if reason is not None:
            self.skip(info, reason)
            return
        spec = WeightSpec.of(tensor, kept)
        padding = padding_of_owners(owners) if padding is None else padding
        split = Split(info, tensor, owners, spec, self._scheme.split(tensor.detach(), spec), padding)
        moved = [row for row in padding if not self._scheme.keeps_row(split.parts, spec, row)]
        if moved:
            self.skip(info, _moved(moved[0], self._scheme))
        else:
            self._splits.append(split)

    def skip(self, info: WeightedOp, reason: Reason) -> None:
        """Note that a weight was skipped."""
        self.skipped.append(Skipped(info.fqn, ", ".join(info.ops), reason))

    def verified(self) -> list[Split]:
        """Compose each weight again, and return those that came out as the scheme promises."""
        while self._splits:
            own, specs = [split.parts for split in self._splits], [split.spec for split in self._splits]
            self.shared = self._scheme.split_shared(own, specs)
            common = {**self.shared, **self._scheme.gather(own, specs)}
            good = [split for split in self._splits if self._verify(split, common)]
            if len(good) == len(self._splits) or not self.shared:
                return good
            self._splits = good  # what all have in common is another without the rest
        return []

    def register(self, splits: Iterable[Split]) -> None:
        """Put the parts in the place of their weights, in every module that holds them."""
        edits, trains = Edits(), False
        for split in splits:
            trains |= split.tensor.requires_grad
            tensors = {
                name: part if name in self._scheme.state else nn.Parameter(part, split.tensor.requires_grad)
                for name, part in split.parts.items()
            }
            for owner in split.owners:
                edits.replace(owner.module, [owner.name], {f"{owner.name}_{name}": t for name, t in tensors.items()})
        edits.commit()
        for name, tensor in self.shared.items():
            self._root.register_parameter(name, nn.Parameter(tensor, trains))

    def converted(self, split: Split, how: str) -> Converted:
        """Return the report's entry for a weight."""
        return Converted(
            fqn=split.info.fqn,
            op=", ".join(split.info.ops),
            scheme=self._scheme.name,
            keys=(*split.targets.values(), *self._scheme.shared),
            dims=split.spec.dims,
            how=how,
            max_abs_error=split.error,
            kept_dim=split.spec.kept,
        )

    def _reason_against(self, tensor: Tensor, owners: list[Entry]) -> Reason | None:
        if reason := reason_against(tensor, ((owner.path, owner.module) for owner in owners)):
            return reason
        for owner in owners:
            for suffix in self._suffixes:
                if has_attribute(owner.module, f"{owner.name}_{suffix}"):
                    return Why.NAME_TAKEN(holder="its module", name=f"{owner.name}_{suffix}")
        for part in self._scheme.shared:
            if has_attribute(self._root, part):
                return Why.NAME_TAKEN(holder="the model", name=part)
        return None

    def _verify(self, split: Split, common: dict[str, Tensor]) -> bool:
        composed = self._scheme.compose({**split.parts, **common}, split.spec)
        for row in split.padding if not split.tensor.is_meta else ():
            if composed[row].any() and not split.tensor[row].any():
                self.skip(split.info, _moved(row, self._scheme))
                return False
        if composed.stride() != split.tensor.stride():
            self.skip(split.info, Why.STRIDES(strides=split.tensor.stride(), composed=composed.stride()))
            return False
        split.error = 0.0 if split.tensor.is_meta else change(split.tensor, composed)
        if reason := reason_against_change(split.tensor, self._scheme, split.error):
            self.skip(split.info, reason)
        return reason is None


def _moved(row: int, scheme: Scheme) -> Reason:
    return Why.PADDING(row=row, scheme=scheme.name)
