"""Insert normalization nodes in front of the weights of weighted ops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node

from wnconvert.fitness import Overlaps
from wnconvert.graph.entries import Entries, held_tensors, join
from wnconvert.passes.base import ReportingPass
from wnconvert.report import Converted, Report
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.selection import Dim, Selection
from wnconvert.tracing.tracing import remarks_of
from wnconvert.weights import emission, expansion, fetches, loading
from wnconvert.weights.padding import padding_of_sites
from wnconvert.weights.sites import Weight, find
from wnconvert.weights.splitting import Split, Splitter
from wnconvert.weights.template import Template

#: for the report: how this pass converts
HOW = "graph"

#: the scheme's own default
DEFAULT = "default"


class ApplyPass(ReportingPass):
    """Give each chosen weight of a graph a scheme: its parts take its place, and nodes compose them.

    The graph module is changed in place. A weight that several ops read, or that is tied, is split once and stays
    tied. What is already computed by nodes is left alone, so applying twice changes nothing.

    Args:
        scheme: a scheme, or the name of one.
        dim: the kept dim as torch means it (None and -1 are the whole tensor), ``"output"``, or the scheme's default.
        selection: which weights to convert.

    Attributes:
        report: what the last call did, weight by weight.

    Raises:
        UnknownNameError: no scheme has that name.
    """

    def __init__(
        self, scheme: str | Scheme = "weight_norm", *, dim: Dim | str = DEFAULT, selection: Selection | None = None
    ) -> None:
        self.scheme = resolve_scheme(scheme)
        self.dim: Dim = self.scheme.default_dim if dim == DEFAULT else dim  # type: ignore[assignment]
        super().__init__(selection)

    def formula(self, split: Split) -> Template | None:
        """Return the nodes that compose a weight, for a graph of others than calls of torch's functions."""
        return None

    def _run(self, graph_module: GraphModule) -> Report:
        return _Application(graph_module, self).run()

    def _promised(self, entry: Converted) -> Iterable[str]:
        return entry.keys


class _Application:
    """One run of the pass."""

    def __init__(self, graph_module: GraphModule, settings: ApplyPass) -> None:
        self.graph_module = graph_module
        self.graph = graph_module.graph
        self.scheme = settings.scheme
        reserved = (emission.MODE,) if self.scheme.dynamic else ()
        self.splitter = Splitter(graph_module, self.scheme, settings.dim, settings.selection, reserved)
        self.elsewhere = settings.elsewhere
        self.formula = settings.formula

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self) -> Report:
        entries = Entries(self.graph_module)
        found = find(self.graph_module, entries).without(self.elsewhere)
        overlaps, remarks = Overlaps(held_tensors(self.graph_module)), remarks_of(self.graph_module)
        for weight in found.weights:
            remark = next((remarks[owner.fqn] for owner in weight.owners if owner.fqn in remarks), None)
            obstacle = overlaps.reason_against(weight.tensor) or weight.obstacle or remark
            self.splitter.add(weight.info, weight.tensor, weight.owners, obstacle, padding_of_sites(weight))
        splits = self.splitter.verified()
        if splits:
            self._insert(splits, {id(weight.tensor): weight for weight in found.weights})
            self.splitter.register(splits)
            self._let_load(splits, entries)
        converted = tuple(self.splitter.converted(split, HOW) for split in splits)
        computed = (entry for entry in found.computed("by nodes") if entry.fqn not in self.elsewhere)
        return Report(converted, (*self.splitter.skipped, *computed, *found.others))

    def _let_load(self, splits: list[Split], entries: Entries) -> None:
        """Let state dicts be loaded that hold the weights whole, or split by torch."""
        names: dict[int, list[str]] = defaultdict(list)
        for fqn, tensor in entries:
            names[id(tensor)].append(fqn)
        loading.install(
            self.graph_module,
            [loading.SplitWeight(tuple(names[id(split.tensor)]), self.scheme, split.spec) for split in splits],
        )

    def _insert(self, splits: list[Split], weights: dict[int, Weight]) -> None:
        """Write the nodes that compose the weights, and let everything that read the weights read those."""
        order = {node: index for index, node in enumerate(self.graph.nodes)}
        first = {id(split): min(_uses(weights[id(split.tensor)]), key=order.__getitem__) for split in splits}
        own: dict[int, dict[str, Node]] = {}
        common: dict[str, Node] = {}
        if self.scheme.shared:
            with self.graph.inserting_before(min(first.values(), key=order.__getitem__)):
                own = {id(split): emission.fetch(self.graph, split.targets) for split in splits}
                common = emission.fetch(self.graph, {name: name for name in self.scheme.shared})
                parts = [own[id(split)] for split in splits]
                common |= emission.gather(self.graph, self.scheme, parts, [split.spec for split in splits])
        for split in splits:
            weight = weights[id(split.tensor)]
            noted = fetches.note(weight.reads)
            read = _fetch_at(first[id(split)], weight.reads)
            with self.graph.inserting_before(read or first[id(split)]):
                nodes = {**(own.get(id(split)) or emission.fetch(self.graph, split.targets)), **common}
                flag, formula = self._flag(split), self.formula(split)
                composed = emission.emit(self.graph, self.scheme, split.spec, nodes, flag, read, formula)
            _rewire(weight, composed)
            fetches.attach(composed, noted)

    def _flag(self, split: Split) -> str | None:
        """Install a mode flag beside the parts if training updates the scheme's state."""
        if not self.scheme.dynamic:
            return None
        owner = split.owners[0]
        name = f"{owner.name}_{emission.MODE}"
        flag = emission.mode_flag()
        owner.module.add_module(name, flag.train(owner.module.training))
        return join(owner.path, name)


def _uses(weight: Weight) -> list[Node]:
    return [*weight.reads, *(site.node for site in weight.sites if site.module is not None)]


def _fetch_at(use: Node, reads: list[Node]) -> Node | None:
    """Return a node that fetches the weight, moved to its first use, or None if modules alone use it."""
    if use.op == "get_attr" or not reads:
        return use if reads else None
    use.prepend(reads[0])
    return reads[0]


def _rewire(weight: Weight, composed: Node) -> None:
    """Let everything that reads the weight read the composed one."""
    for site in weight.sites:
        if site.module is None:
            expansion.keep_as_function(site.node)
        else:
            expansion.expand(site.node, site.module, composed)
    for read in weight.reads:
        if read is composed:
            continue
        composed.meta.update({key: read.meta[key] for key in ("val", "tensor_meta") if key in read.meta})
        read.replace_all_uses_with(composed)
        composed.graph.erase_node(read)
