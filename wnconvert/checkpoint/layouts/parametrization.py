"""`torch.nn.utils.parametrizations`: ``conv.parametrizations.weight.original0`` and what stands beside it.

The keys of one weight are ``original`` or ``original0``, ``original1``, ..., and the buffers of the parametrizations by
their position: ``0._u`` and ``0._v`` of a spectral norm, ``0.base`` of an orthogonal one. Two tensors of which one is a
magnitude of the other are a weight norm. A parametrization with neither tensors nor buffers leaves no trace; where the
positions show a gap, or nothing but ``original`` is there, the weight is refused. Sources:
torch/nn/utils/parametrize.py and parametrizations.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from wnconvert.checkpoint.content.shapes import fitting_dims
from wnconvert.checkpoint.layout import Group, Layout, Listing, Load, register
from wnconvert.checkpoint.layouts import _spectral_norm, _weight_norm
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason, Why

_KEY = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?P<rest>original\d*|\d+\..+)", re.DOTALL)
_ORIGINALS = {
    ("weight_norm", "g"): "original0",
    ("weight_norm", "v"): "original1",
    ("spectral_norm", "orig"): "original",
}
_STATE = re.compile(r"(?:(?P<at>\d+)\.)?(?P<vector>[uv])")


@register
class Parametrization(Layout):
    """Keys under ``parametrizations.X``: weight norm, spectral norm, and spectral norms on top of either."""

    name = "parametrization"
    title = "torch.nn.utils.parametrizations"
    api = "parametrization"
    repeatable = True
    spells = {"weight_norm": ("g", "v"), "spectral_norm": ("orig", "u", "v")}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield every parametrized tensor, whatever its name."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for key in listing.shapes:
            if match := _KEY.fullmatch(key):
                found[match["module"] + match["name"]][match["rest"]] = key
        for stem, keys in found.items():
            yield _group(stem, keys, listing)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what the parametrizations compute in evaluation mode, one after the other."""
        if "g" in parts:
            weight = _weight_norm.composed(parts["g"], parts["v"], group.kept or ())
            stack, first = group.stack, 1
        else:
            weight, stack, first = parts["orig"], ((group.kept or (0,)), *group.stack), 0
        for position, (dim,) in enumerate(stack, first):
            u, v = (parts[_state(vector, position)] for vector in "uv")
            weight = _spectral_norm.composed(weight, u, v, dim, torch.vdot)
        return weight

    def channelwise(self, group: Group) -> bool:
        """Return whether it is a weight norm of the first dim: torch's kernel for that works row by row."""
        return group.scheme == "weight_norm" and group.kept == (0,)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the parts of a weight norm, or of the spectral norm of a folded weight."""
        if scheme == "spectral_norm":
            return _spectral_norm.split(weight, kept, torch.vdot)
        return _weight_norm.split(weight, kept)

    def restored(
        self, weight: Tensor, scheme: str, kept: tuple[int, ...], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """Return the parts of a spectral norm with the vectors of another."""
        return _spectral_norm.restored(weight, kept, like, torch.vdot) if scheme == "spectral_norm" else None

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return that the largest singular value is not 1."""
        if scheme == "weight_norm":
            return super().unheld(weight, scheme, kept)
        return _spectral_norm.unheld(weight, kept, self.title)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.parametrizations.weight.original0``."""
        module, dot, name = stem.rpartition(".")
        return f"{module}{dot}parametrizations.{name}.{_ORIGINALS.get((scheme, part)) or _spelled_state(part)}"


def _group(stem: str, keys: Mapping[str, str], listing: Listing) -> Group:
    """Return the group of one parametrized tensor."""
    layout = Parametrization.name
    originals = [rest for rest in keys if rest.startswith("original")]
    positions = sorted({int(rest.partition(".")[0]) for rest in keys if rest not in originals})
    others = [rest for rest in keys if rest not in originals and not re.fullmatch(r"\d+\._[uv]", rest)]
    if others:
        kind = "an orthogonal" if others[0].endswith(".base") else "an unknown"
        what = f"it is under {kind} parametrization ({others[0]!r})"
        return Group(stem, layout, None, keys, problem=Why.SCHEME_UNKNOWN(what=what))
    if set(originals) == {"original0", "original1"}:
        return _weight_normed(stem, keys, positions, listing)
    if originals == ["original"] and positions:
        return _spectral_normed(stem, keys, positions, listing)
    return Group(stem, layout, None, keys, problem=Why.SCHEME_UNKNOWN(what="its keys do not show its parametrization"))


def _weight_normed(stem: str, keys: Mapping[str, str], positions: list[int], listing: Listing) -> Group:
    parts = _ordered({**_state_keys(keys), "g": keys["original0"], "v": keys["original1"]}, keys)
    kept, misfit = _weight_norm.kept_dims(listing, parts)
    if kept is None:
        return Group(stem, Parametrization.name, None, parts, problem=misfit)
    # a dim that the user gives is meant for what does not show it, which is only the spectral norms on top
    problem = None if positions else _weight_norm.contrary(listing, kept)
    base = Group(stem, Parametrization.name, "weight_norm", parts, kept, problem=problem)
    return _stacked(base, positions, 1, listing)


def _spectral_normed(stem: str, keys: Mapping[str, str], positions: list[int], listing: Listing) -> Group:
    parts = _ordered({**_state_keys(keys), "orig": keys["original"]}, keys)
    return _stacked(Group(stem, Parametrization.name, None, parts), positions, 0, listing)


def _ordered(parts: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, str]:
    """Return the parts in the order of the state dict."""
    names = {key: part for part, key in parts.items()}
    return {names[key]: key for key in keys.values() if key in names}


def _stacked(group: Group, positions: list[int], first: int, listing: Listing) -> Group:
    """Return the group with the spectral norms at the given positions on top."""
    if positions != list(range(first, first + len(positions))):
        gap = Why.SCHEME_UNKNOWN(what=f"a parametrization before position {positions[-1]} leaves no trace")
        return _with(group, None, group.kept, (), gap)
    scheme, kept, stack, problem = group.scheme, group.kept, group.stack, group.problem
    for position in positions:
        dim, reason = _dim_at(group, position, stack, kept, listing)
        if dim is None and reason is None:
            return _with(group, None, kept, stack, listing.misfit(group.keys))
        problem = problem or reason
        scheme = "spectral_norm" if scheme is None else f"{scheme}+spectral_norm"
        if position == 0:
            kept = None if dim is None else (dim,)
        elif dim is not None:
            stack = (*stack, (dim,))
    return _with(group, scheme, kept, stack, problem)


def _dim_at(
    group: Group,
    position: int,
    stack: tuple[tuple[int, ...], ...],
    kept: tuple[int, ...] | None,
    listing: Listing,
) -> tuple[int | None, Reason | None]:
    """Return the kept dim of the spectral norm at a position or why it is not known; neither, where nothing fits."""
    names = [_state(vector, position) for vector in "uv"]
    if any(name not in group.keys for name in names):
        return None, None
    direction = group.keys["v" if "g" in group.keys and "orig" not in group.keys else "orig"]
    u, v = (group.keys[name] for name in names)
    fitting = fitting_dims(*(listing.shapes[key] for key in (direction, u, v)))

    def vectors(load: Load) -> tuple[Tensor, Tensor, Tensor | None]:
        below = _with(group, group.scheme, kept, stack, None)
        needed = {part: load(key) for part, key in group.keys.items() if _position(part) < position}
        if position == 0:
            weight = load(direction)
        elif position == 1 and "g" in group.keys:
            weight = _weight_norm.composed(needed["g"], needed["v"], kept or ())
        else:
            weight = Parametrization().compose(below, needed)
        return weight, load(u), load(v)

    return _spectral_norm.kept_dim(fitting, listing, vectors) if fitting else (None, None)


def _with(
    group: Group,
    scheme: str | None,
    kept: tuple[int, ...] | None,
    stack: tuple[tuple[int, ...], ...],
    problem: Reason | None,
) -> Group:
    return Group(group.stem, group.layout, scheme, group.keys, kept, stack, problem)


def _state_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Return the vectors of the spectral norms by part name."""
    found = {rest: re.fullmatch(r"(\d+)\._([uv])", rest) for rest in keys}
    return {_state(match[2], int(match[1])): keys[rest] for rest, match in found.items() if match}


def _state(vector: str, position: int) -> str:
    """Return the part name of a vector: plain for the norm on the original, with its position further up."""
    return vector if position == 0 else f"{position}.{vector}"


def _spelled_state(part: str) -> str:
    match = _STATE.fullmatch(part)
    assert match is not None, part
    return f"{match['at'] or 0}._{match['vector']}"


def _position(part: str) -> int:
    """Return where a part belongs; what a weight norm starts from counts as 0."""
    return int(part.partition(".")[0]) if "." in part else 0
