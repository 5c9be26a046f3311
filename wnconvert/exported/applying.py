"""Insert normalization nodes into a program: a scheme's formula as calls of ATen ops."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError
from wnconvert.passes.apply import DEFAULT, ApplyPass
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.selection import Dim, Selection
from wnconvert.weights.splitting import Split
from wnconvert.weights.template import Template


class ProgramApplyPass(ApplyPass):
    """`ApplyPass` for the graph of a program, in which only ATen ops are called.

    Args:
        scheme: as in `ApplyPass`.
        dim: as there.
        selection: as there.

    Raises:
        OptionError: the scheme keeps a state that training updates, or has parts that all weights share: a program is
            of one mode.
    """

    def __init__(
        self, scheme: str | Scheme = "weight_norm", *, dim: Dim | str = DEFAULT, selection: Selection | None = None
    ) -> None:
        super().__init__(scheme, dim=dim, selection=selection)
        if self.scheme.state or self.scheme.shared:
            what = "keeps a state that training updates" if self.scheme.state else "takes all weights together"
            raise OptionError(
                f"scheme {self.scheme.name!r} {what}, which a program of one mode cannot hold; apply it to the model, "
                "and export that"
            )

    def formula(self, split: Split) -> Template:
        """Return the scheme's formula as `torch.export` writes it."""
        return _formula(self.scheme, split.spec, tuple(_Facts.of(name, part) for name, part in split.parts.items()))


class _Facts(tuple[Any, ...]):
    """What the nodes of a formula depend on in a part: name, shape, strides and dtype."""

    @classmethod
    def of(cls, name: str, part: Tensor) -> _Facts:
        return cls((name, tuple(part.shape), part.stride(), part.dtype))


class _Composition(nn.Module):
    """A scheme's formula, to be exported."""

    def __init__(self, scheme: Scheme, spec: WeightSpec, names: tuple[str, ...]) -> None:
        super().__init__()
        self.scheme, self.spec, self.names = scheme, spec, names

    def forward(self, *parts: Tensor) -> Tensor:
        given: Mapping[str, Tensor] = dict(zip(self.names, parts, strict=True))
        return self.scheme.compose(given, self.spec)


@lru_cache(maxsize=4096)
def _formula(scheme: Scheme, spec: WeightSpec, parts: tuple[_Facts, ...]) -> Template:
    names = tuple(name for name, *_ in parts)
    examples = tuple(
        torch.empty_strided(shape, strides, dtype=dtype, device="meta") for _, shape, strides, dtype in parts
    )
    graph = torch.export.export(_Composition(scheme, spec, names), examples, strict=False).graph
    (output,) = graph.output_node().args[0]
    return Template.of(graph, names, output)
