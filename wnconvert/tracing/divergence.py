"""Compare two runs of one forward, and say in which modules they took another way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.fx import Node
from torch.fx.node import map_arg

from wnconvert.tracing.writer import Frame
from wnconvert.verification import same_bits

#: functions that are told the mode, and the modules that know it themselves
DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class Comparison:
    """What differs between two runs.

    Args:
        a: one run.
        b: the other one.
        given: for placeholders of ``a`` the values that were given in ``b``.

    Attributes:
        modules: names of the innermost modules whose own calls differ.
        followers: dropouts of the root's own forward that differ in nothing but the mode that they are told.
    """

    def __init__(self, a: Frame, b: Frame, given: Mapping[Node, Any]) -> None:
        self._own = {item for item in a.items if isinstance(item, Node)}
        self._constants = a.constants, b.constants
        self._twins: dict[Node, Any] = dict(given)
        self.followers: set[Node] = set()
        self.modules: list[str] = []
        if not self._same_calls(a, b):
            self._twins = dict(given)
            self._compare(a, b)

    def _same_calls(self, a: Frame, b: Frame) -> bool:
        """Whether the same calls were made in the same order, whoever made them."""
        mine, its = list(_nodes(a)), list(_nodes(b))
        return len(mine) == len(its) and all(map(self._alike, mine, its))

    def _compare(self, a: Frame, b: Frame) -> None:
        for mine, its in zip_longest(a.items, b.items):
            if isinstance(mine, Frame) and isinstance(its, Frame) and mine.path == its.path:
                self._compare(mine, its)
            elif not (isinstance(mine, Node) and isinstance(its, Node) and self._alike(mine, its)):
                self.modules.append(a.path)
                return

    def _alike(self, mine: Node, its: Node) -> bool:
        if mine.op == "placeholder":
            self._twins.setdefault(mine, its)
            return its.op == "placeholder"
        self._twins[mine] = its
        if mine.op != its.op or mine.target != its.target or not self._same_constant(mine):
            return False
        if self.modules:
            return True  # what a module yields that took another way is not held against those who use it
        args = map_arg(mine.args, self._twins.__getitem__)
        kwargs: Any = map_arg(mine.kwargs, self._twins.__getitem__)
        if mine in self._own and mine.target in DROPOUTS and kwargs.get("training") is not its.kwargs.get("training"):
            self.followers.add(mine)
            kwargs = {**kwargs, "training": its.kwargs.get("training")}
        try:
            return bool(args == its.args) and bool(kwargs == its.kwargs)
        except Exception:  # noqa: BLE001 - arguments may be of any class
            return False

    def _same_constant(self, node: Node) -> bool:
        if node.op != "get_attr":
            return True
        mine, its = (constants.get(str(node.target)) for constants in self._constants)
        return mine is its or (mine is not None and its is not None and same_bits(mine, its))


def _nodes(frame: Frame) -> Iterator[Node]:
    for item in frame.items:
        if isinstance(item, Frame):
            yield from _nodes(item)
        else:
            yield item
