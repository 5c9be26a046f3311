"""Find the weights of a model that stays a model: by its graph, by its classes, and by watching it run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.fx import Graph

from wnconvert.errors import OptionError, described
from wnconvert.graph.copying import clone
from wnconvert.graph.entries import Entries
from wnconvert.modules.classes import LiveWeight, Role, compiled_weights, live_weights
from wnconvert.modules.computed import is_part
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.tracing.recording import record
from wnconvert.tracing.tracing import find_graphs
from wnconvert.weights.padding import padding_of_sites
from wnconvert.weights.sites import Weight, find


@dataclass(frozen=True)
class WeightsFound:
    """What was found.

    Attributes:
        weights: the parameters that are weights of ops, or may be.
        others: weights that a forward computes from parameters, and those that compiled code holds.
        note: why the graph did not help, if it did not.
    """

    weights: list[LiveWeight]
    others: list[Skipped]
    note: str | None = None


def find_weights(model: nn.Module, example_inputs: tuple[Any, ...] | None = None) -> WeightsFound:
    """Find the weights of ``model``, which is left as it is.

    A traced graph tells which parameters enter which ops, and which dim is the output; nothing of it is run. What it
    does not show is told by the classes of modules, and by one forward of a copy where there are example inputs.

    Raises:
        OptionError: the model does not run on the example inputs.
    """
    entries = Entries(model)
    remarks: dict[str, Reason] = {}
    graphs, note = find_graphs(model, remarks)
    if example_inputs is not None:
        graphs.append(_recorded(model, example_inputs))
    weights: dict[int, LiveWeight] = {}
    computed: dict[str, Skipped] = {}
    inside: set[str] = set()
    read: set[int] = set()
    for found in (find(model, entries, graph) for graph in graphs):
        read |= found.read
        plain = (weight for weight in found.weights if not any(map(is_part, weight.owners)))
        weights |= {id(weight.tensor): _live(weight) for weight in plain if id(weight.tensor) not in weights}
        for entry in found.computed("in the forward"):
            computed.setdefault(entry.fqn, entry)
            inside.update(entry.keys)
    for live in live_weights(entries):
        if not any(owner.fqn in inside for owner in live.owners):
            weights[id(live.tensor)] = _by_class(live, weights.get(id(live.tensor)), id(live.tensor) in read)
    # a weight that its module computes is found there, and one that is plain as well is such
    others = [entry for entry in computed.values() if not _is_known(entry, entries, weights)]
    others += compiled_weights(model)
    return WeightsFound([with_remark(weight, remarks) for weight in weights.values()], others, note)


def _is_known(entry: Skipped, entries: Entries, weights: Collection[int]) -> bool:
    tensors = [entries.tensors.get(key) for key in entry.keys]
    if len(tensors) == 1 and id(tensors[0]) in weights:
        return True
    return all(tensor is not None and any(map(is_part, entries.owners(tensor))) for tensor in tensors)


def _by_class(live: LiveWeight, known: LiveWeight | None, read: bool) -> LiveWeight:
    """Return what is to be said of a weight that its class tells of, and perhaps a graph."""
    if known is not None:
        return known if known.obstacle or not live.obstacle else replace(known, obstacle=live.obstacle)
    if read:
        return replace(live, role=None, obstacle=live.obstacle or Why.UNREAD())
    return live


def with_remark(weight: LiveWeight, remarks: Mapping[str, Reason]) -> LiveWeight:
    """Return a weight with the reason that a trace found against it, if there is one."""
    remark = next((remarks[owner.fqn] for owner in weight.owners if owner.fqn in remarks), None)
    return weight if remark is None or weight.obstacle else replace(weight, obstacle=remark)


def _recorded(model: nn.Module, example_inputs: tuple[Any, ...]) -> Graph:
    try:
        return record(clone(model), example_inputs)
    except Exception as error:
        raise OptionError(f"the model does not run on the example inputs: {described(error)}") from error


def _live(weight: Weight) -> LiveWeight:
    info = weight.info
    role = Role(info.ops, info.output_dims)
    return LiveWeight(weight.tensor, weight.owners, role, weight.unfit, padding_of_sites(weight))
