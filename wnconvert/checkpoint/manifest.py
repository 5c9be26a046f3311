"""What a conversion leaves in the metadata of a file, so that another process can undo or repeat it exactly.

Part names show the scheme, but not all of its options (``p`` of weight norm, ``eps`` of standardization), and the
shapes of parts do not always show the kept dims. The manifest holds both. A file without one is folded with the
options that its keys show and defaults for the rest, and the report says so. What is recorded of a weight counts for
more than what its keys and shapes show, as long as it has the parts of the recorded scheme; what the user says counts
for more than either.

A plain weight does not show whether it was ever normalized. So what is folded and was not split by wnconvert itself is
recorded too. Such a record outlives a split: fold the weight again, and the file is what it was.

    {"version": 1,
     "schemes": [{"name": "weight_norm", "options": {"p": 2.0, "log_g": false}}],
     "weights": {"a.weight": [0, [0]]},
     "ways": [{"scheme": "weight_norm", "options": {...}, "layout": "parametrization", "kept": [0]}],
     "folded": {"b.weight": 0}}

The last two are left out where nothing was folded. A scheme that was computed on another device than the CPU names it
(``"device"``), for only there its parts give every bit back. Readers ignore what they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from wnconvert.errors import CheckpointError, WnconvertError
from wnconvert.scheme import SCHEMES, Scheme

#: the key in `Checkpoint.metadata`.
KEY = "wnconvert"
VERSION = 1
#: the device of which nothing is recorded
CPU = "cpu"


@dataclass(frozen=True)
class Applied:
    """How one weight was split: by which scheme, and with which kept dims; and where, for bits may depend on it."""

    scheme: Scheme
    kept: tuple[int, ...]
    device: str = CPU

    def is_of(self, parts: Collection[str]) -> bool:
        """Return whether it counts for a weight with these parts; what keys and shapes show then does not."""
        return frozenset(parts) == frozenset(self.scheme.parts)


#: entries by the dotted name of the weight, the path of its state dict included.
Manifest = Mapping[str, Applied]


@dataclass(frozen=True)
class Folded:
    """What a plain weight was before it was folded.

    Attributes:
        scheme: name of the scheme, several joined by ``+`` where one was on top of another.
        options: its options, or those of a layout that the user named, as pairs.
        layout: name of the layout; empty for the parts of a scheme that only wnconvert has.
        kept: the kept dims, or None where the layout has none.
    """

    scheme: str
    options: tuple[tuple[str, Any], ...]
    layout: str
    kept: tuple[int, ...] | None

    @classmethod
    def of(cls, scheme: str, layout: str, kept: tuple[int, ...] | None, options: object = None) -> Folded:
        """Return a record with the options that ``options``, a scheme or a layout, has."""
        known = {each.name: getattr(options, each.name) for each in fields(options)} if is_dataclass(options) else {}
        plain = {name: value for name, value in known.items() if isinstance(value, (bool, int, float, str))}
        return cls(scheme, tuple(plain.items()), layout, kept)

    @property
    def applied(self) -> Applied | None:
        """How to split the weight again, or None where no scheme does that."""
        if self.kept is None or self.scheme not in SCHEMES:
            return None
        try:
            return Applied(_scheme(self.scheme, dict(self.options)), self.kept)
        except (WnconvertError, ValueError):  # options of a layout
            return None


#: by the dotted name of the plain weight, the path of its state dict included.
Records = Mapping[str, Folded]


def read(metadata: Mapping[str, str]) -> dict[str, Applied]:
    """Return how weights were split, as the manifest in ``metadata`` says; nothing where there is none.

    Raises:
        CheckpointError: it cannot be understood.
    """
    return _read(metadata)[0]


def read_folded(metadata: Mapping[str, str]) -> dict[str, Folded]:
    """Return what weights were before they were folded, those among them that were split again since.

    Raises:
        CheckpointError: the manifest cannot be understood.
    """
    return _read(metadata)[1]


def _read(metadata: Mapping[str, str]) -> tuple[dict[str, Applied], dict[str, Folded]]:
    if KEY not in metadata:
        return {}, {}
    try:
        data = json.loads(metadata[KEY])
        if data["version"] != VERSION:
            raise CheckpointError(f"the manifest has version {data['version']!r}; this wnconvert reads {VERSION}")
        schemes = [(_scheme(item["name"], item["options"]), _device(item)) for item in data["schemes"]]
        entries = {
            fqn: Applied(schemes[index][0], _kept(kept), schemes[index][1])
            for fqn, (index, kept) in data["weights"].items()
        }
        ways = [_way(item) for item in data.get("ways", [])]
        return entries, {fqn: ways[index] for fqn, index in data.get("folded", {}).items()}
    except WnconvertError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the manifest of the file cannot be understood: {error!r}") from error


def write(metadata: Mapping[str, str], entries: Manifest, folded: Records | None = None) -> dict[str, str]:
    """Return ``metadata`` with the manifest replaced; nothing in it, no manifest.

    Args:
        metadata: what the file has.
        entries: how weights were split.
        folded: what weights were before they were folded; by default what the metadata say.
    """
    folded = read_folded(metadata) if folded is None else folded
    others = {key: text for key, text in metadata.items() if key != KEY}
    if not entries and not folded:
        return others
    schemes = dict.fromkeys((entry.scheme, entry.device) for entry in entries.values())
    ways = dict.fromkeys(folded.values())
    place: dict[Any, int] = {each: index for kinds in (schemes, ways) for index, each in enumerate(kinds)}
    data: dict[str, Any] = {
        "version": VERSION,
        "schemes": [
            {"name": scheme.name, "options": asdict(scheme)} | ({} if device == CPU else {"device": device})
            for scheme, device in schemes
        ],
        "weights": {fqn: [place[entry.scheme, entry.device], list(entry.kept)] for fqn, entry in entries.items()},
    }
    if folded:
        data["ways"] = [{**asdict(way), "options": dict(way.options)} for way in ways]
        data["folded"] = {fqn: place[way] for fqn, way in folded.items()}
    return {**others, KEY: json.dumps(data)}


def _scheme(name: str, options: Mapping[str, Any]) -> Scheme:
    kind = SCHEMES.get(name)
    defaults = {each.name: each.default for each in fields(kind)}
    options = {kind.former.get(option, option): value for option, value in options.items()}
    for option, value in options.items():
        if option not in defaults:
            raise ValueError(f"scheme {name} has no option {option!r}")
        wanted = type(defaults[option])
        if wanted in (bool, int, float, str) and type(value) not in (wanted, int if wanted is float else wanted):
            raise ValueError(f"option {name}.{option} is {value!r}")
    return kind(**options)


def _device(item: Mapping[str, Any]) -> str:
    device = item.get("device", CPU)
    if not isinstance(device, str):
        raise ValueError(f"device {device!r}")
    return device


def _kept(dims: list[int]) -> tuple[int, ...]:
    if any(type(dim) is not int or dim < 0 for dim in dims) or len(set(dims)) != len(dims):
        raise ValueError(f"kept dims {dims!r}")
    return tuple(dims)


def _way(item: Mapping[str, Any]) -> Folded:
    texts = (item["scheme"], item["layout"], *item["options"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a folded weight of {item!r}")
    options = tuple((name, value) for name, value in item["options"].items() if isinstance(value, (int, float, str)))
    return Folded(item["scheme"], options, item["layout"], None if item["kept"] is None else _kept(item["kept"]))
