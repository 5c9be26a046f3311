"""What projects write themselves, and run as a script: ``python benchmarks/by_hand.py fold|apply SOURCE OUTPUT``.

It knows the one layout, checks nothing, and reads nothing again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def fold(content: dict[str, Tensor]) -> None:
    """Compose each pair of keys."""
    for key in [key for key in content if key.endswith("weight_g")]:
        stem = key.removesuffix("_g")
        content[stem] = torch._weight_norm(content.pop(f"{stem}_v"), content.pop(key), 0)  # noqa: SLF001 (as scripts do)


def apply(content: dict[str, Tensor]) -> None:
    """Split each weight."""
    for key in [key for key in content if key.endswith("weight")]:
        weight = content.pop(key)
        content[f"{key}_g"], content[f"{key}_v"] = torch.norm_except_dim(weight, 2, 0), weight


def by_hand(convert: Callable[[dict[str, Tensor]], None], source: Path, output: Path) -> None:
    """Read a file, convert it, and write it."""
    if source.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        content = load_file(source)
        convert(content)
        save_file(content, output)
    else:
        content = torch.load(source)
        convert(content)
        torch.save(content, output)


if __name__ == "__main__":
    by_hand({"fold": fold, "apply": apply}[sys.argv[1]], *map(Path, sys.argv[2:4]))
