"""DoRA adapters of PEFT: a base weight, and ``lora_A``, ``lora_B`` and ``lora_magnitude_vector`` in a second file.

    w = m * (W + s B A) / ||W + s B A||

Liu et al. 2024, https://arxiv.org/abs/2402.09353. The scaling s is in ``adapter_config.json``, not among the tensors,
so the user names this layout with what the config says, `from_config`; it then looks at the entries of both files
together, ``find_groups({**base, **adapter}, presets=[from_config(config)])``.

Source: peft/tuners/lora/variants.py, ``DoraLinearVariant.merge_safe``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.layout import Group, Layout, Source, register
from wnconvert.errors import CheckpointError
from wnconvert.scheme import HALF

_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?:lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight"
    r"|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?)",
    re.DOTALL,
)
_PARTS = ("weight", "A", "B", "magnitude")


@register
@dataclass(frozen=True)
class Dora(Layout):
    """The keys of one adapter, over the weights of the base.

    Attributes:
        alpha: ``lora_alpha`` of the adapter's config.
        rank_stabilized: ``use_rslora``: divide by the root of the rank.
        fan_in_fan_out: the base stores its weights as (in, out), as GPT-2 does.
        alpha_pattern: pairs of a regular expression for module names and their alpha.
    """

    alpha: float = 1.0
    rank_stabilized: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: tuple[tuple[str, float], ...] = ()

    name = "dora"
    title = "a DoRA adapter of PEFT"
    automatic = False
    mixed = True
    direction = {"dora": "weight"}

    def find(self, source: Source) -> Iterator[Group]:
        """Yield each adapted linear layer with the weight of the base that it adapts."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for key in source.tensors:
            if match := _KEY.fullmatch(key):
                found[match["module"]][match["factor"] or "magnitude"] = key
        for module, parts in found.items():
            stem = _base_name(module, source)
            keys = {"weight": stem, **parts} if stem in source.tensors else parts
            problem = _problem({part: source.tensors[key] for part, key in keys.items()}, stem, self.fan_in_fan_out)
            yield Group(stem, self.name, None if problem else "dora", keys, (0,), problem=problem)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the merged weight; PEFT keeps adapters in float32 where they are in half precision."""
        base = parts["weight"]
        a, b, magnitude = (_widened(parts[part]) for part in _PARTS[1:])
        delta = self._transposed(b @ a) * self._scaling(group.stem, a.shape[0])
        weight = self._transposed(base) + self._transposed(delta)
        norm = torch.linalg.norm(weight, dim=1).to(weight.dtype)
        factor = self._transposed((magnitude.view(-1) / norm).view(-1, 1))
        return (factor * (base + delta)).to(base.dtype)

    def _transposed(self, matrix: Tensor) -> Tensor:
        return matrix.T if self.fan_in_fan_out else matrix

    def _scaling(self, stem: str, rank: int) -> float:
        module = stem.removesuffix(".weight").removesuffix(".base_layer")
        alphas = [alpha for pattern, alpha in self.alpha_pattern if re.match(rf"(.*\.)?({pattern})$", module)]
        alpha = alphas[0] if alphas else self.alpha
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank


def from_config(config: Mapping[str, Any]) -> Dora:
    """Return the layout that the content of an ``adapter_config.json`` means.

    Raises:
        CheckpointError: it is not the config of a DoRA adapter.
    """
    if not config.get("use_dora"):
        raise CheckpointError("the adapter's config does not say 'use_dora': true")
    try:
        return Dora(
            float(config["lora_alpha"]),
            bool(config.get("use_rslora")),
            bool(config.get("fan_in_fan_out")),
            tuple((str(name), float(alpha)) for name, alpha in (config.get("alpha_pattern") or {}).items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the adapter's config cannot be understood: {error!r}") from error


def _base_name(module: str, source: Source) -> str:
    """Return the key of the base weight; inside a PEFT model it has moved into ``base_layer``."""
    inner = f"{module}.base_layer.weight"
    return inner if inner in source.tensors else f"{module}.weight"


def _problem(parts: Mapping[str, Tensor], stem: str, fan_in_fan_out: bool) -> str | None:
    if missing := [part for part in _PARTS if part not in parts]:
        return f"the base has no {stem!r}" if missing[0] == "weight" else f"its part {missing[0]!r} is missing"
    shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    if len(shapes["weight"]) != 2:
        return "DoRA of a convolution or embedding cannot be folded here; merge it with peft"
    rows, columns = reversed(shapes["weight"]) if fan_in_fan_out else shapes["weight"]
    rank = shapes["A"][0]
    wanted = {"A": (rank, columns), "B": (rows, rank), "magnitude": (rows,)}
    if any(shapes[part] != shape for part, shape in wanted.items()):
        return "its parts do not fit together: " + ", ".join(f"{part} {shape}" for part, shape in shapes.items())
    return None


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor
