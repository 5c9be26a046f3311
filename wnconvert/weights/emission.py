"""Write a scheme's formula into a graph: `Scheme.compose` run on proxies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import nn
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.weights.template import Template

#: how a module is called that tells training from evaluation, see `wnconvert.graph.constants.is_mode_flag`
MODE = "mode"


def mode_flag() -> nn.Module:
    """Return a new mode flag: a module that passes its input in evaluation and gives zeros in training."""
    return nn.Dropout(p=1.0)


def fetch(graph: Graph, targets: Mapping[str, str]) -> dict[str, Node]:
    """Write a get_attr node for each dotted name at the insertion point; the result has the same keys."""
    return {key: graph.create_node("get_attr", fqn) for key, fqn in targets.items()}


def gather(
    graph: Graph, scheme: Scheme, parts: Sequence[Mapping[str, Node]], specs: Sequence[WeightSpec]
) -> dict[str, Node]:
    """Write what all chosen weights have in common."""
    tracer = GraphAppendingTracer(graph)
    proxies = [{name: Proxy(node, tracer) for name, node in own.items()} for own in parts]
    gathered = scheme.gather(proxies, specs)  # type: ignore[arg-type]
    return {name: proxy.node for name, proxy in gathered.items()}  # type: ignore[attr-defined]


def emit(
    graph: Graph,
    scheme: Scheme,
    spec: WeightSpec,
    parts: Mapping[str, Node],
    flag: str | None = None,
    into: Node | None = None,
    formula: Template | None = None,
) -> Node:
    """Write the weight that ``parts`` stand for.

    Args:
        graph: where to write, at the insertion point.
        scheme: the scheme.
        spec: the weight's static facts.
        parts: nodes by part name.
        flag: dotted name of a mode flag; with it, each training forward updates the scheme's state.
        into: an existing node that becomes the last one; it keeps its name, its users and its meta.
        formula: the scheme's formula as nodes of another kind than calls of torch's functions.
    """
    if scheme.state:
        parts = {**parts, **_state(graph, scheme, spec, parts, flag)}
    return (formula or _formula(scheme, spec, tuple(parts))).write(graph, parts, into)


@lru_cache(maxsize=4096)
def _formula(scheme: Scheme, spec: WeightSpec, names: tuple[str, ...]) -> Template:
    return Template(names, lambda parts: scheme.compose(parts, spec))  # type: ignore[arg-type, return-value]


def _state(
    graph: Graph, scheme: Scheme, spec: WeightSpec, parts: Mapping[str, Node], flag: str | None
) -> dict[str, Node]:
    """Write the reading of the state and, with a flag, its update; return what compose is to read.

    Unpickling traces the graph's code again, and torch.fx takes a value that is computed from buffers alone for a
    constant. So each buffer is first multiplied by a one that comes from a parameter.

    Compose reads fresh tensors and not the buffers, so that a second forward before the backward does not invalidate
    what the first one saved (pytorch/pytorch#66363).
    """
    tracer = GraphAppendingTracer(graph)
    proxies = {name: Proxy(node, tracer) for name, node in parts.items()}
    one = proxies[scheme.direction].new_ones(()).detach()
    old = {name: proxies[name].mul(one) for name in parts if name in scheme.state}
    if flag is None:
        return {name: proxy.node for name, proxy in old.items()}
    new = scheme.update({**proxies, **old}, spec)  # type: ignore[dict-item]
    evaluating = Proxy(graph.create_node("call_module", flag, (one.node,)), tracer).gt(0)
    chosen = {name: torch.where(evaluating, old[name], new[name]) for name in old}  # type: ignore[call-overload]
    for name, value in chosen.items():
        proxies[name].copy_(value)
    return {name: value.node for name, value in chosen.items()}
