"""Where in a file the tensors of one model may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.manifest import Manifest, Records
from wnconvert.errors import OptionError

_T = TypeVar("_T")


class Place:
    """Entries of a file under the names that they have there.

    Attributes:
        name: dotted path to them; empty for the root.
        state_dict: the entries, by what follows the path.
        recorded: how weights were split, by such names too.
        folded: what weights were before they were folded.
    """

    def __init__(self, name: str, entries: dict[Any, Any], recorded: Manifest, folded: Records) -> None:
        self.name = name
        self.state_dict = StateDict((), entries)
        self.recorded, self.folded = self._below(recorded), self._below(folded)

    def __str__(self) -> str:
        return self.name or "the root"

    def _below(self, entries: Mapping[str, _T]) -> dict[str, _T]:
        prefix = f"{self.name}." if self.name else ""
        return {fqn[len(prefix) :]: entry for fqn, entry in entries.items() if fqn.startswith(prefix)}


def places(checkpoint: Checkpoint, only: str | None) -> Iterator[Place]:
    """Yield the places where the tensors of a model may be, those that are one dict first.

    Args:
        checkpoint: the file.
        only: a dotted path, through dicts and then the names in one of them; nothing else is looked at.

    Raises:
        OptionError: there is no tensor below that path.
    """
    content = checkpoint.content
    content = dict(content.state_dict()) if isinstance(content, nn.Module) else content
    found = find_state_dicts(content)
    records = manifest.read(checkpoint.metadata), manifest.read_folded(checkpoint.metadata)
    every = {each.fqn(str(key)): value for each in found for key, value in each.entries.items()}
    if only is not None:
        below = {name[len(only) + 1 :]: value for name, value in every.items() if name.startswith(f"{only}.")}
        if not any(isinstance(value, Tensor) for value in below.values()):
            known = ", ".join(map(str, found)) or "none"
            raise OptionError(f"there is no tensor below {only!r} (there are state dicts at: {known})")
        yield Place(only, below, *records)
        return
    for each in found:
        yield Place(".".join(map(str, each.path)), each.entries, *records)
    if len(found) > 1:  # a state dict whose modules have dicts of their own
        yield Place("", every, *records)
