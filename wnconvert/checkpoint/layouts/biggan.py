"""BigGAN-PyTorch's spectral norm: a plain ``conv.weight`` beside the state ``conv.u0`` and ``conv.sv0``.

``W_`` recomputes sigma by one power iteration in every forward, in evaluation too; ``sv0`` is for logging only. A layer
with several singular values has ``u1``, ``sv1`` and so on, of which only the first divides the weight. ``transpose``,
which no layer of the project sets, shows in the length of ``u0``. Source: ajbrock/BigGAN-PyTorch, layers.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from wnconvert.checkpoint.layout import Group, Layout, Listing, Migrated, register
from wnconvert.checkpoint.layouts import _spectral_norm
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason

_STATE = re.compile(r"(?:u|sv)\d+")


@register
@dataclass(frozen=True)
class BigGan(Layout):
    """Keys ``weight``, ``u0`` and ``sv0`` of one module.

    Attributes:
        eps: least norm that the vectors are divided by; it matters to weights of zeros only.
    """

    eps: float = 1e-12

    name = "biggan"
    title = "BigGAN-PyTorch's SN"
    spells = {"spectral_norm": ("weight", "u0", "sv0")}
    direction = {"spectral_norm": "weight"}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the modules in which ``u0`` is a row as long as the weight has output channels."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for key in listing.shapes:
            module, dot, part = key.rpartition(".")
            if _STATE.fullmatch(part):
                found[module + dot][part] = key
        for prefix, state in found.items():
            stem = f"{prefix}weight"
            if stem in listing.shapes and {"u0", "sv0"} <= state.keys():
                yield self._group(stem, {"weight": stem, **state}, listing)

    def _group(self, stem: str, keys: Mapping[str, str], listing: Listing) -> Group:
        weight, u, sv = (listing.shapes[keys[part]] for part in ("weight", "u0", "sv0"))
        rows = weight[0] if len(weight) > 1 else 0
        if rows and sv == (1,) and u in ((1, rows), (1, prod(weight) // rows)):
            # of a square matrix both sides have that length; no layer of the project is transposed
            return Group(stem, self.name, "spectral_norm", keys, (0,) if u[1] == rows else None)
        problem = listing.misfit({part: keys[part] for part in ("weight", "u0")})
        return Group(stem, self.name, None, keys, problem=problem)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``weight / sigma`` with the sigma of one power iteration from ``u0``."""
        return parts["weight"] / self._advanced(parts, bool(group.kept))[2]

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the folded weight itself, and a ``u0`` whose next one is its singular vector."""
        u, _ = _spectral_norm.held_vectors(
            weight, (0,), lambda u, _: self._advanced({"weight": weight, "u0": u.unsqueeze(0)})[2]
        )
        return {"weight": weight, "u0": u.unsqueeze(0), "sv0": weight.new_ones(1)}

    def trained(self, group: Group) -> tuple[str, ...]:
        """Return the weight."""
        return (group.keys["weight"],)

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return that the largest singular value is not 1."""
        return _spectral_norm.unheld(weight, (0,), self.title)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.u0``; the weight keeps its name."""
        module, dot, _ = stem.rpartition(".")
        return stem if part == "weight" else f"{module}{dot}{part}"

    def _advanced(self, parts: Mapping[str, Tensor], rows: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Return the vectors and the sigma of the power iteration that every forward makes.

        Args:
            parts: the weight and ``u0``.
            rows: whether ``u0`` is as long as the weight has output channels.
        """
        weight = parts["weight"]
        w = weight.view(weight.size(0), -1) if weight.is_contiguous() else weight.reshape(weight.size(0), -1)
        w = w if rows else w.t()
        v = torch.nn.functional.normalize(torch.matmul(parts["u0"], w), eps=self.eps)
        u = torch.nn.functional.normalize(torch.matmul(v, w.t()), eps=self.eps)
        return u, v, torch.squeeze(torch.matmul(torch.matmul(v, w.t()), u.t()))

    def migrated(self, group: Group, parts: Mapping[str, Tensor]) -> Migrated:
        """Return vectors for modules that store what they divide by, as torch's do: ``u`` is as long as the rows.

        The products of the two may round differently, so the last bits of ``u`` are changed until the sigmas are equal.
        """
        rows = bool(group.kept)
        u, v, sigma = self._advanced(parts, rows)
        u, v = (each.squeeze(0) for each in ((u, v) if rows else (v, u)))
        image = torch.mv(_spectral_norm.matrix(parts["weight"], 0), v)
        u = _spectral_norm.nearest(u, lambda each: float(torch.dot(each, image)), float(sigma))
        more = [part for part in group.keys if part not in self.spells["spectral_norm"]]
        left = f"; {', '.join(more)} of further singular values are left out" if more else ""
        note = f"BigGAN's layers make an iteration from 'u0' in each forward; its result was stored{left}"
        return Migrated({"orig": "weight", "u": "u0"}, {"u": u, "v": v}, note)
