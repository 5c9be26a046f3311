"""What a conversion leaves in the metadata of a file, so that another process can undo it exactly.

Part names show the scheme, but not all of its options (``p`` of weight norm, ``eps`` of standardization), and the
shapes of parts do not always show the kept dims. The manifest holds both. A file without one is folded with the
options that its keys show and defaults for the rest, and the report says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wnconvert.errors import CheckpointError, WnconvertError
from wnconvert.scheme import SCHEMES, Scheme

#: the key in `Checkpoint.metadata`.
KEY = "wnconvert"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """How one weight was split: by which scheme, and with which kept dims."""

    scheme: Scheme
    kept: tuple[int, ...]


#: entries by the dotted name of the weight, the path of its state dict included.
Manifest = Mapping[str, Entry]


def read(metadata: Mapping[str, str]) -> dict[str, Entry]:
    """Return the manifest in ``metadata``, empty where there is none.

    Raises:
        CheckpointError: it cannot be understood.
    """
    if KEY not in metadata:
        return {}
    try:
        data = json.loads(metadata[KEY])
        if data["version"] != VERSION:
            raise CheckpointError(f"the manifest has version {data['version']!r}; this wnconvert reads {VERSION}")
        schemes = [SCHEMES.get(item["name"])(**item["options"]) for item in data["schemes"]]
        return {
            fqn: Entry(schemes[index], tuple(int(dim) for dim in kept))
            for fqn, (index, kept) in data["weights"].items()
        }
    except WnconvertError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(f"the manifest of the file cannot be understood: {error!r}") from error


def write(metadata: Mapping[str, str], entries: Manifest) -> dict[str, str]:
    """Return ``metadata`` with the manifest replaced; no entries, no manifest."""
    others = {key: text for key, text in metadata.items() if key != KEY}
    if not entries:
        return others
    schemes = list(dict.fromkeys(entry.scheme for entry in entries.values()))
    data = {
        "version": VERSION,
        "schemes": [{"name": scheme.name, "options": asdict(scheme)} for scheme in schemes],
        "weights": {fqn: [schemes.index(entry.scheme), list(entry.kept)] for fqn, entry in entries.items()},
    }
    return {**others, KEY: json.dumps(data)}
