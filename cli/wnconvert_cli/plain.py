"""Results as JSON that any program can read, whatever names and numbers are in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any


def as_json(data: object) -> str:
    """Return data as a JSON text of ASCII alone."""
    return json.dumps(plain(data), indent=2, allow_nan=False)


def plain(data: Any) -> Any:
    """Return data as what JSON has: numbers that are none as texts, and names that are no Unicode with escapes."""
    if type(data) is str and data.isascii():  # nearly all there is
        return data
    if isinstance(data, Enum):
        return plain(data.value)
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, (str, Path)):
        # half a surrogate pair, as in a file name that is not UTF-8, is refused by most readers of JSON
        return str(data).encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(data, Mapping):
        return {plain(str(key)): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return data
