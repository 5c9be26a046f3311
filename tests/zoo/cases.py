"""All cases of the zoo."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from tests.zoo import other_models, timm_models, transformers_models
from tests.zoo.check import Case

#: group -> what must be installed for it
GROUPS = {"timm": ("timm",), "transformers": ("transformers",), "other": ("transformers", "torchvision")}


def cases() -> Iterator[Case]:
    """Yield the cases of every group whose packages are installed."""
    for group, module in (("timm", timm_models), ("transformers", transformers_models), ("other", other_models)):
        if all(importlib.util.find_spec(package) for package in GROUPS[group]):
            yield from module.cases()
