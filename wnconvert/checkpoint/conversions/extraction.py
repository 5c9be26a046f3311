"""One state dict of a checkpoint by itself, for containers that hold tensors by name and nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.tree import find_state_dicts
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.errors import OptionError
from wnconvert.report import Converted, Skipped

_T = TypeVar("_T")
_Entry = TypeVar("_Entry", Converted, Skipped)
#: how many names of what is left out are said.
_NAMED = 8


def alone(source: Checkpoint, conversion: Conversion, within: Sequence[str]) -> tuple[Checkpoint, Conversion]:
    """Return a checkpoint and its conversion, both with nothing but the one state dict that was chosen.

    Names in the report and in the metadata lose the path to it; a note says what is left out.

    Args:
        source: the input.
        conversion: what became of it.
        within: dotted paths, as for the conversion.

    Raises:
        OptionError: several state dicts are at these places, or below.
    """
    found = chosen_state_dicts(find_state_dicts(source.content), within)
    if len(found) != 1:
        places = ", ".join(str(each) for each in found)
        raise OptionError(f"the container holds one state dict, and these were chosen: {places}; give one (--only)")
    (chosen,) = found
    if not chosen.path:
        return source, conversion
    prefix = chosen.fqn("")
    others = [".".join(map(str, path)) for path in _beside(source.content, chosen.path)]
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    note = f"only {str(chosen)!r} is written, for the container holds no nested dicts; left out: "
    note += (", ".join(others[:_NAMED]) or "nothing") + more
    report = replace(
        conversion.report,
        converted=tuple(_shortened(entry, prefix) for entry in conversion.report.converted),
        skipped=tuple(_shortened(entry, prefix) for entry in conversion.report.skipped),
        notes=(*conversion.report.notes, note),
        optimizers=(),  # they are left out, whatever became of them
    )
    before, after = (_only(each, chosen.path, prefix) for each in (source, conversion.checkpoint))
    return before, Conversion(after, report)


def _only(checkpoint: Checkpoint, path: Sequence[Hashable], prefix: str) -> Checkpoint:
    node: Any = checkpoint.content
    for key in path:
        node = node[key]
    applied = _under(manifest.read(checkpoint.metadata), prefix)
    folded = _under(manifest.read_folded(checkpoint.metadata), prefix)
    return replace(checkpoint, content=node, metadata=manifest.write(checkpoint.metadata, applied, folded))


def _beside(node: Any, path: Sequence[Hashable]) -> Iterator[tuple[Hashable, ...]]:
    """Yield the paths of what is beside each step of a path, from the root down."""
    for depth, step in enumerate(path):
        keys = node if isinstance(node, dict) else range(len(node))
        yield from ((*path[:depth], key) for key in keys if key != step)
        node = node[step]


def _shortened(entry: _Entry, prefix: str) -> _Entry:
    keys = tuple(key.removeprefix(prefix) for key in entry.keys)
    return replace(entry, fqn=entry.fqn.removeprefix(prefix), keys=keys)


def _under(entries: Mapping[str, _T], prefix: str) -> dict[str, _T]:
    return {fqn[len(prefix) :]: entry for fqn, entry in entries.items() if fqn.startswith(prefix)}
