"""The ways to convert that are compared."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import nn

import wnconvert
from tests.fuzz.differential import Way
from wnconvert.scheme import Scheme


def by_default(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert a copy."""
    return wnconvert.apply(model, scheme)


def with_example(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert a copy, after one forward was watched."""
    return wnconvert.apply(model, scheme, example_inputs=example)


def itself(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert the very object."""
    return wnconvert.apply(model, scheme, inplace=True)


def as_graph(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert the graph."""
    return wnconvert.apply(model, scheme, how="graph")


def as_compared_graph(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert the graph, which is compared with the model before it is returned."""
    return wnconvert.apply(model, scheme, how="graph", example_inputs=example)


def trace(model: nn.Module) -> None:
    """Trace, or learn why not."""
    with contextlib.suppress(wnconvert.TracingError):
        wnconvert.trace(model)


LOOKS = (wnconvert.find_weighted_ops, wnconvert.check, trace)

DEFAULT = Way("by default", by_default, looks=LOOKS)
EXAMPLE = Way("with example inputs", with_example)
INPLACE = Way("inplace", itself, copies=False)
GRAPH = Way("as a graph", as_graph, graph=True)
COMPARED = Way("as a compared graph", as_compared_graph, graph=True)
WAYS = (DEFAULT, EXAMPLE, INPLACE, GRAPH, COMPARED)
