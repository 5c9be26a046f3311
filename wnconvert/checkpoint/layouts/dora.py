"""LoRA and DoRA adapters of PEFT: a base weight, and ``lora_A``, ``lora_B``, ``lora_magnitude_vector`` elsewhere.

    w = m * (W + s B A) / ||W + s B A||        with a magnitude: DoRA
    w = W + s B A                              without: LoRA

Liu et al. 2024, https://arxiv.org/abs/2402.09353; Hu et al. 2021, https://arxiv.org/abs/2106.09685. The scaling s is in
``adapter_config.json``, not among the tensors, so the user names this layout with what the config says; it then looks
at the entries of both files together, ``find_groups({**base, **adapter}, presets=[layout])``.

Source: peft/tuners/lora/layer.py and variants.py, ``get_delta_weight`` and ``merge``, as `merge_and_unload` calls them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from wnconvert.checkpoint.content.shapes import Shapes
from wnconvert.checkpoint.layout import Group, Layout, Listing, register
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason, Why

_KEY = (
    r"(?P<module>.+)\.(?:lora_(?P<factor>[AB])(?:\.(?P<name>[^.]+))?\.(?P<kind>weight|bias)"
    r"|lora_embedding_(?P<table>[AB])(?:\.(?P<table_name>[^.]+))?"
    r"|lora_magnitude_vector(?:\.(?P<scale_name>(?!weight$)[^.]+))?(?:\.weight)?)"
)
#: what PEFT puts in front of the names of the base.
PREFIX = "base_model.model."
#: the functions of convolutions by the rank of their weights.
_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


class FactorKey(NamedTuple):
    """What a key of an adapter says.

    Attributes:
        module: name of the adapted module in the model that was adapted.
        part: ``"A"``, ``"B"``, ``"shift"`` (the bias of B) or ``"magnitude"``.
        table: whether the module is an embedding.
        adapter: name of the adapter, which the keys of a live model have.
    """

    module: str
    part: str
    table: bool
    adapter: str | None

    @classmethod
    def of(cls, key: str) -> FactorKey | None:
        """Return what a key says, or None if it is none of an adapter's factors."""
        match = re.fullmatch(_KEY, key, re.DOTALL)
        if match is None or (match["kind"] == "bias" and match["factor"] == "A"):
            return None
        part = "shift" if match["kind"] == "bias" else match["factor"] or match["table"] or "magnitude"
        name = match["name"] or match["table_name"] or match["scale_name"]
        return cls(match["module"].removeprefix(PREFIX), part, match["table"] is not None, name)


@register
@dataclass(frozen=True)
class Dora(Layout):
    """The keys of one adapter, over the weights of the base.

    Attributes:
        alpha: ``lora_alpha`` of the adapter's config; without it nothing is composed.
        rank_stabilized: ``use_rslora``: divide by the root of the rank.
        fan_in_fan_out: the base stores square weights as (in, out), as GPT-2 does; the shapes of others show it.
        alpha_pattern: pairs of a regular expression for module names and their alpha.
        magnitudes: whether each module must have a magnitude (True) or must have none (False); None takes both.
        dropped: what the base leaves out at the begin of the adapter's names.
        added: what the base puts there instead.
    """

    alpha: float = math.nan
    rank_stabilized: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    magnitudes: bool | None = None
    dropped: str = ""
    added: str = ""

    name = "dora"
    title = "a LoRA or DoRA adapter of PEFT"
    automatic = False
    adapter = True
    mixed = True
    direction = {"dora": "weight", "lora": "weight"}
    magnitude = "magnitude"

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield each adapted weight, and each adapted bias, with the tensor of the base that it adapts."""
        modules = [_Module(self, name, keys, listing) for name, keys in _by_module(listing.shapes).items()]
        contrary = any(module.transposed is (not self.fan_in_fan_out) for module in modules)
        for module in modules:
            yield module.weight(contrary)
            if "shift" in module.keys:
                yield module.bias()

    def remark(self, keys: Iterable[object], *, reference: bool = False) -> str | None:
        """Return that an adapter needs its base, and makes no pattern for other files."""
        if not is_adapter(keys):
            return None
        if reference:
            return "is an adapter; a weight cannot be taken apart into a base and factors again, so keep both"
        return (
            "holds an adapter of PEFT; fold it together with its base (--adapter), or give its options (--preset "
            "dora:alpha=...) if the base is in the file"
        )

    def is_factor(self, key: str) -> bool:
        """Return whether a key is one that PEFT adds to those of the base."""
        return "lora_" in key and FactorKey.of(key) is not None

    def outline(self, shapes: Shapes) -> str | None:
        """Return whether it is LoRA or DoRA, of which rank, and on how many weights."""
        found = {key: known for key in shapes if "lora_" in key and (known := FactorKey.of(key))}
        first = {key: known for key, known in found.items() if known.part == "A"}
        if not first:
            return None
        kind = "DoRA" if any(known.part == "magnitude" for known in found.values()) else "LoRA"
        ranks = sorted({shapes[key][0] for key in first if shapes[key]})
        count = f"{len(first)} weight{'' if len(first) == 1 else 's'}"
        return f"{kind} of rank {', '.join(map(str, ranks))} on {count}"

    def in_base(self, name: str) -> str:
        """Return what the base calls a module or tensor of the adapter."""
        return self.added + name.removeprefix(self.dropped)

    def scaling(self, group: Group, rank: int) -> float:
        """Return the factor s of a group."""
        from wnconvert.checkpoint.layouts._patterns import matches  # which few need, and all layouts are looked at

        known = FactorKey.of(group.keys["A"])
        module = known.module if known else group.stem
        alphas = (alpha for pattern, alpha in self.alpha_pattern if matches(pattern, module))
        alpha = next(alphas, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the merged weight or bias."""
        base = parts["weight"]
        if "shift" in parts:
            shift = _widened(parts["shift"], base) * self.scaling(group, parts["A"].shape[0])
            return (base + shift).to(base.dtype)
        delta = self._delta(group, parts)
        if "magnitude" not in parts:
            # PEFT rounds what it adds to an embedding before, what it adds to any other layer after the sum
            return (base + (delta.to(base.dtype) if _is_table(group) else delta)).to(base.dtype)
        magnitude = _widened(parts["magnitude"], base)
        if base.ndim > 2:
            norm = (base + delta).norm(p=2, dim=tuple(range(1, base.ndim)), keepdim=True).transpose(1, 0)
            factor = (magnitude.view(norm.shape) / norm).view(-1, *(1,) * (base.ndim - 1))
        else:
            norm = torch.linalg.norm(_turned(group, base) + _turned(group, delta), dim=1)
            factor = _turned(group, (magnitude.view(-1) / norm).view(-1, 1))
        return (factor * (base + delta)).to(base.dtype)

    def as_weight_norm(self, group: Group, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return magnitude and direction of a DoRA weight: it *is* a weight norm, over W + s B A."""
        base, dim = parts["weight"], (group.kept or (0,))[0]
        shape = [size if place == dim else 1 for place, size in enumerate(base.shape)]
        direction = (base + self._delta(group, parts)).to(base.dtype)
        return {"g": parts["magnitude"].reshape(shape).to(base.dtype), "v": direction}

    def _delta(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        base = parts["weight"]
        a, b = _widened(parts["A"], base), _widened(parts["B"], base)
        s = self.scaling(group, a.shape[0])
        if base.ndim == 2:
            return _turned(group, b @ a) * s
        if base.ndim == 4 and tuple(base.shape[2:]) == (1, 1):
            return (b.flatten(1) @ a.flatten(1)).view(base.shape) * s
        convolve = getattr(torch.nn.functional, _CONVOLUTIONS[base.ndim])
        return convolve(a.transpose(0, 1), b).transpose(0, 1) * s


class _Module:
    """One adapted module.

    Args:
        layout: the options.
        name: its name in the model that was adapted.
        keys: the adapter's keys by part.
        listing: the entries of both files.
    """

    def __init__(self, layout: Dora, name: str, keys: dict[str, list[str]], listing: Listing) -> None:
        self.layout = layout
        self.name = layout.in_base(name)
        self.several = next((found for found in keys.values() if len(found) > 1), None)
        self.keys = {part: found[0] for part, found in keys.items()}
        self.shapes = listing.shapes
        self.inner = f"{self.name}.base_layer"
        known = [FactorKey.of(key) for key in self.keys.values()]
        self.is_table = any(key is not None and key.table for key in known)

    def weight(self, contrary: bool) -> Group:
        """Return the group of the weight; ``contrary`` says that other modules do not fit ``fan_in_fan_out``."""
        stem = self._base("weight")
        keys = self._with_base(stem, ("A", "B", "magnitude"))
        problem = self._problem(stem, keys) or (self._unclear(contrary) if "weight" in keys else None)
        flat = stem in self.shapes and len(self.shapes[stem]) == 2
        turned = self.is_table or (flat and self.layout.fan_in_fan_out if self.transposed is None else self.transposed)
        scheme = "dora" if "magnitude" in keys else "lora"
        return Group(stem, Dora.name, None if problem else scheme, keys, (1 if turned else 0,), problem=problem)

    def bias(self) -> Group:
        """Return the group of the bias, to which the bias of B is added."""
        stem = self._base("bias")
        keys = self._with_base(stem, ("shift", "A"))
        problem = None
        if len(keys) < 3:
            problem = _no_base(stem) if "A" in keys else Why.PART_MISSING(part="A")
        elif self.shapes[stem] != self.shapes[self.keys["shift"]]:
            problem = Why.MISFIT(how="")
        return Group(stem, Dora.name, None if problem else "lora", keys, (0,), problem=problem)

    @cached_property
    def transposed(self) -> bool | None:
        """Whether the weight is (in, out); None where its shape does not say."""
        keys = (self._base("weight"), self.keys.get("A"), self.keys.get("B"))
        shapes = [self.shapes.get(key, ()) for key in keys if key]
        if self.is_table or [len(shape) for shape in shapes] != [2, 2, 2]:
            return None
        weight, a, b = shapes
        plain, turned = (b[0], a[1]), (a[1], b[0])
        return None if plain == turned or weight not in (plain, turned) else weight == turned

    def _base(self, kind: str) -> str:
        """Return the key of the base tensor; inside a PEFT model it has moved into ``base_layer``."""
        inner = f"{self.inner}.{kind}"
        return inner if inner in self.shapes else f"{self.name}.{kind}"

    def _with_base(self, stem: str, parts: Sequence[str]) -> dict[str, str]:
        keys: dict[str, str] = {"weight": stem} if stem in self.shapes else {}
        return keys | {part: self.keys[part] for part in parts if part in self.keys}

    def _problem(self, stem: str, keys: Mapping[str, str]) -> Reason | None:
        if self.several:
            keys_ = " and ".join(map(repr, self.several))
            return Why.LAYOUT(problem=f"it has several adapters, {keys_}; save one of them")
        if "weight" not in keys:
            return _no_base(stem)
        if missing := [part for part in ("A", "B") if part not in keys]:
            return Why.PART_MISSING(part=missing[0])
        if not math.isfinite(self.layout.alpha):
            way_out = "give it as the config of the adapter has it (--preset dora:alpha=...)"
            return Why.LAYOUT(problem=f"its alpha is not known; {way_out}")
        if self.layout.magnitudes not in (None, "magnitude" in keys):
            if self.layout.magnitudes:
                return Why.PART_MISSING(part="magnitude")
            return Why.LAYOUT(problem="it has a magnitude, which LoRA has not")
        shapes = {part: self.shapes[key] for part, key in keys.items()}
        if shapes["A"][:1] == (0,):
            return Why.LAYOUT(problem="its rank is 0")
        return _misfit(shapes, self.is_table)

    def _unclear(self, contrary: bool) -> Reason | None:
        weight = self.shapes[self._base("weight")]
        if self.is_table or len(weight) != 2 or self.transposed is not None or not contrary:
            return None
        problem = "it is square, and the weights of other modules are not stored as 'fan_in_fan_out' says; leave it out"
        return Why.LAYOUT(problem=problem)


def _no_base(stem: str) -> Reason:
    return Why.LAYOUT(problem=f"the base has no {stem!r}")


def _by_module(keys: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        if known := FactorKey.of(key):
            found[known.module][known.part].append(key)
    return found


def _misfit(shapes: Mapping[str, tuple[int, ...]], is_table: bool) -> Reason | None:
    """Return why the factors do not fit the weight, or None."""
    weight, a, b = shapes["weight"], shapes["A"], shapes["B"]
    fits = len(weight) == len(a) == len(b) and len(weight) in (2, *_CONVOLUTIONS)
    rows = b[0] if b else 0
    if fits and len(weight) > 2 and (b[1] != a[0] or a[1] != weight[1]) and b[0] == weight[0]:
        return Why.LAYOUT(problem="LoRA of a convolution with groups is a convolution without; it cannot be folded")
    if fits and len(weight) > 2:
        fits = a[1:] == weight[1:] and b == (weight[0], a[0], *(1,) * (len(weight) - 2))
    elif fits:
        own = (b[0], a[1])
        fits = b[1] == a[0] and weight in ((own[::-1],) if is_table else (own, own[::-1]))
    if fits and "magnitude" in shapes:
        fits = math.prod(shapes["magnitude"]) == rows
    if fits:
        return None
    return Why.MISFIT(how=": " + ", ".join(f"{part} {shape}" for part, shape in shapes.items()))


def _is_table(group: Group) -> bool:
    known = FactorKey.of(group.keys["A"])
    return known is not None and known.table


def _turned(group: Group, matrix: Tensor) -> Tensor:
    return matrix.T if group.kept == (1,) else matrix


def _widened(tensor: Tensor, base: Tensor) -> Tensor:
    """Return a part of the adapter in the dtype of PEFT's layers: that of the base, but at least float32."""
    return tensor.to(torch.promote_types(base.dtype, torch.float32))


#: what reports call what `wnconvert.checkpoint.fold_adapter` composes beside a base, which had plain keys before
SCHEMES = (Dora.name, "lora")


def is_adapter(keys: Iterable[object]) -> bool:
    """Return whether some key is one of an adapter."""
    return any(FactorKey.of(key) for key in keys if isinstance(key, str))
