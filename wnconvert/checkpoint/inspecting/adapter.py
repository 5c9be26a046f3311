"""What the config of an adapter says of its base. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from wnconvert.checkpoint.storage.paths import read_small
from wnconvert.errors import CheckpointError

CONFIG = "adapter_config.json"
#: longer configs are not read.
LONGEST = 1 << 24


def base_of(path: Path) -> str | None:
    """Return the name or the path of the base of an adapter, or None where no config beside it tells.

    Args:
        path: the folder of the adapter, or a file in it.
    """
    config = (path if path.is_dir() else path.parent) / CONFIG
    try:
        told = json.loads(read_small(config, LONGEST))
    except (OSError, ValueError, RecursionError, CheckpointError):
        return None
    base = told.get("base_model_name_or_path") if isinstance(told, dict) else None
    return base if isinstance(base, str) and base else None
