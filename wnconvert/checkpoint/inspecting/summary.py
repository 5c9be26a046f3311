"""What `inspect` tells of a state dict. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StateDictSummary:
    """One state dict of a checkpoint.

    Attributes:
        path: the keys that lead to it, dotted; empty for the root.
        tensors: how many entries are tensors.
        others: how many are not.
        dtypes: how many tensors have each dtype.
        bytes: size of all tensors, tied ones counted once.
        schemes: how many weights are under each scheme.
        unknown: names whose parts belong to no scheme, or do not fit together.
        plain: names of the plain weights that `wnconvert.checkpoint.apply` would take.
        zero: channels of zeros (first dim) in weights, magnitudes and directions, by key.
        non_finite: channels with a NaN or an infinity in them, by key.
        recorded: how many weights the file's manifest describes.
        layouts: how many weights are in each layout, those in the parts of a scheme of wnconvert's own left out.
        kept: how many weights of each scheme keep which dims, by those dims: ``"0"``, ``"0 1"``, ``"none"`` for a whole
            tensor, ``"unknown"`` where only values, or not even they, show it. Of norms on top of each other, those of
            the first count.
        saved: bytes that folding all of them would save.
        adapter: what adapter is among the keys, ``"DoRA of rank 8 on 24 weights"``; empty without one.
        folded: how many plain weights the file's manifest says were folded, by scheme.
    """

    path: str
    tensors: int
    others: int
    dtypes: dict[str, int]
    bytes: int
    schemes: dict[str, int]
    unknown: tuple[str, ...]
    plain: tuple[str, ...]
    zero: dict[str, int]
    non_finite: dict[str, int]
    recorded: int = 0
    layouts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    saved: int = 0
    folded: dict[str, int] = field(default_factory=dict)
    adapter: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data, ready for JSON."""
        told = asdict(self)
        return {"kept_dim": told.pop("kept"), **told}
