"""Results for machines."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Mapping


def json(data: object) -> None:
    """Print data as JSON."""
    print(json_module.dumps(_finite(data), indent=2))  # noqa: T201 (stdout is the result)


def _finite(data: object) -> object:
    """Return data without the numbers that JSON has not."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data
