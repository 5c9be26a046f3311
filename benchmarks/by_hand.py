"""What projects write themselves, and run as a script: ``python benchmarks/by_hand.py TASK SOURCE [OTHER] [--check]``.

It knows the one layout, looks for nothing else, and has neither a report nor limits. ``fold``, ``apply`` and
``migrate`` write OTHER; with ``--check`` they read it again, and compare its bits with what must be in it: of ``apply``
the weights that the parts make, of the others all tensors. ``verify`` compares the weights that two files make, and
``inspect`` says what is in one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

WEIGHT, G, V = "parametrizations.weight", "original0", "original1"


def fold(content: dict[str, Tensor]) -> None:
    """Compose each pair of keys, of either of torch's interfaces."""
    for key in [key for key in content if key.endswith(("weight_g", G))]:
        hook = key.endswith("weight_g")
        stem, v = key.removesuffix("_g"), f"{key.removesuffix('g')}v"
        if not hook:
            stem, v = f"{key.removesuffix(f'{WEIGHT}.{G}')}weight", key.replace(G, V)
        content[stem] = torch._weight_norm(content.pop(v), content.pop(key), 0)  # noqa: SLF001 (as scripts do)


def apply(content: dict[str, Tensor]) -> None:
    """Split each weight, with the norms that give the very bits back."""
    for key in [key for key in content if key.endswith("weight")]:
        weight = content.pop(key)
        ones = weight.new_ones(len(weight), *[1] * (weight.ndim - 1))
        content[f"{key}_g"] = torch._weight_norm_interface(weight, ones, 0)[1]  # noqa: SLF001
        content[f"{key}_v"] = weight


def migrate(content: dict[str, Tensor]) -> None:
    """Rename each pair of keys."""
    for key in [key for key in content if key.endswith(("weight_g", "weight_v"))]:
        new = key.replace("weight_g", f"{WEIGHT}.{G}").replace("weight_v", f"{WEIGHT}.{V}")
        content[new] = content.pop(key)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path)


def write(content: dict[str, Tensor], path: Path) -> None:
    """Write the tensors into a file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(content, path)
    else:
        torch.save(content, path)


def require_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Stop unless two state dicts are equal."""
    if first.keys() != second.keys() or not all(torch.equal(value, second[key]) for key, value in first.items()):
        sys.exit("they differ")


def by_hand(convert: Callable[[dict[str, Tensor]], None], source: Path, output: Path, *, check: bool = False) -> None:
    """Read a file, convert it, and write it; then read it again, if it is to be checked."""
    content = read(source)
    before = dict(content)
    convert(content)
    write(content, output)
    if check:
        written = read(output)
        if convert is apply:
            fold(written)
        require_equal(before if convert is apply else content, written)


def verify(first: Path, second: Path) -> None:
    """Compare the weights that two files make."""
    contents = read(first), read(second)
    for content in contents:
        fold(content)
    require_equal(*contents)


def inspect(path: Path) -> None:
    """Print what is in a file."""
    content = read(path)
    print(Counter((key.rpartition(".")[2], tuple(tensor.shape), tensor.dtype) for key, tensor in content.items()))


if __name__ == "__main__":
    task, *rest = (each for each in sys.argv[1:] if each != "--check")
    paths = map(Path, rest)
    if task in ("verify", "inspect"):
        {"verify": verify, "inspect": inspect}[task](*paths)
    else:
        by_hand({"fold": fold, "apply": apply, "migrate": migrate}[task], *paths, check="--check" in sys.argv)
