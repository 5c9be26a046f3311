"""Insert normalization nodes in front of the weights of weighted ops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase

from wnconvert.errors import OptionError
from wnconvert.graph import emission, expansion
from wnconvert.graph.entries import Edits, Entries, has_attribute, join
from wnconvert.graph.expressions import sources
from wnconvert.graph.sites import Weight, find, shared_memory
from wnconvert.passes._pause import paused_gc
from wnconvert.passes._result import ReportingPassResult
from wnconvert.report import Converted, Report, Skipped
from wnconvert.scheme import Scheme, WeightSpec, resolve_scheme
from wnconvert.selection import Dim, Selection, kept_dims
from wnconvert.verification import reason_for_difference, same_bits

#: the scheme's own default
DEFAULT = "default"


class ApplyPass(PassBase):
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
        self.selection = selection or Selection()
        self.report = Report()

    def call(self, graph_module: GraphModule) -> ReportingPassResult:
        """Convert ``graph_module`` in place and return ``(graph_module, modified)`` with the report."""
        with paused_gc():
            self.report = _Application(graph_module, self).run()
            if self.report.modified:
                graph_module.recompile()
        return ReportingPassResult(graph_module, self.report.modified, self.report)


@dataclass
class _Planned:
    """A weight that will be converted."""

    weight: Weight
    spec: WeightSpec
    parts: dict[str, Tensor]
    error: float = 0.0

    @property
    def targets(self) -> dict[str, str]:
        """Dotted names of the parts, by part name."""
        return {name: f"{self.weight.info.fqn}_{name}" for name in self.parts}


class _Application:
    """One run of the pass."""

    def __init__(self, graph_module: GraphModule, settings: ApplyPass) -> None:
        self.graph_module = graph_module
        self.graph = graph_module.graph
        self.scheme = settings.scheme
        self.dim = settings.dim
        self.selection = settings.selection
        self.entries = Entries(graph_module)
        self.twins = dict(shared_memory(self.entries))
        self.skipped: list[Skipped] = []

    @torch.no_grad()
    def run(self) -> Report:
        found = find(self.graph_module, self.entries)
        planned = [plan for weight in found.weights if (plan := self._plan(weight))]
        own = [plan.parts for plan in planned]
        specs = [plan.spec for plan in planned]
        shared = self.scheme.split_shared(own, specs) if planned else {}
        gathered = self.scheme.gather(own, specs) if planned else {}
        planned = [plan for plan in planned if self._verify(plan, {**shared, **gathered})]
        if planned:
            self._insert(planned, shared)
        by_root, _ = sources(expression.root for expression in found.expressions)
        for expression in found.expressions:
            source = by_root[expression.root]
            scheme = f" ({source.scheme.name})" if source.scheme else ""
            reason = f"already computed by nodes{scheme}"
            self.skipped.append(Skipped(source.label, expression.sites[0].op, reason, already=True))
        self.skipped += [Skipped(*other, already="already" in other[2]) for other in found.others]
        return Report(tuple(self._converted(plan) for plan in planned), tuple(self.skipped))

    def _plan(self, weight: Weight) -> _Planned | None:
        """Split a weight, or note why it is skipped."""
        info = weight.info
        reason = self.selection.reason_against(info) or weight.obstacle or self._reason_against(weight)
        if reason is None:
            try:
                kept = kept_dims(self.dim, info)
            except OptionError as error:
                reason = str(error)
        if reason is not None:
            self.skipped.append(Skipped(info.fqn, ", ".join(info.ops), reason))
            return None
        spec = WeightSpec.of(weight.tensor, kept)
        return _Planned(weight, spec, self.scheme.split(weight.tensor.detach(), spec))

    def _reason_against(self, weight: Weight) -> str | None:
        fqns = [owner.fqn for owner in weight.owners]
        for fqn in fqns:
            if fqn in self.twins:
                return f"it shares memory with {self.twins[fqn]!r}, which is another tensor"
        for owner in weight.owners:
            for part in (*self.scheme.parts, emission.MODE):
                if has_attribute(owner.module, f"{owner.name}_{part}"):
                    return f"its module already has an attribute '{owner.name}_{part}'"
        for part in self.scheme.shared:
            if has_attribute(self.graph_module, part):
                return f"the model already has an attribute {part!r}"
        if self.scheme.shared and not bool(weight.tensor.isfinite().all()):
            return "it holds non-finite values"
        return None

    def _verify(self, plan: _Planned, common: dict[str, Tensor]) -> bool:
        """Compose the parts and compare with the weight: bit for bit where the scheme promises it."""
        composed = self.scheme.compose({**plan.parts, **common}, plan.spec)
        tensor = plan.weight.tensor
        if tensor.is_meta or same_bits(composed, tensor):
            return True
        if not self.scheme.preserving:
            plan.error = float((composed.double() - tensor.double()).abs().max())
            return True
        info = plan.weight.info
        self.skipped.append(Skipped(info.fqn, ", ".join(info.ops), reason_for_difference(tensor)))
        return False

    def _insert(self, planned: list[_Planned], shared: dict[str, Tensor]) -> None:
        order = {node: index for index, node in enumerate(self.graph.nodes)}
        first = {id(plan): min(self._uses(plan.weight), key=order.__getitem__) for plan in planned}
        own: dict[int, dict[str, Node]] = {}
        common: dict[str, Node] = {}
        if self.scheme.shared:
            with self.graph.inserting_before(min(first.values(), key=order.__getitem__)):
                own = {id(plan): emission.fetch(self.graph, plan.targets) for plan in planned}
                common = emission.fetch(self.graph, {name: name for name in self.scheme.shared})
                parts = [own[id(plan)] for plan in planned]
                common |= emission.gather(self.graph, self.scheme, parts, [plan.spec for plan in planned])
        edits = Edits()
        for plan in planned:
            read = self._fetch_at(first[id(plan)], plan.weight.reads)
            with self.graph.inserting_before(read or first[id(plan)]):
                nodes = {**(own.get(id(plan)) or emission.fetch(self.graph, plan.targets)), **common}
                composed = emission.compose(self.graph, self.scheme, plan.spec, nodes, self._flag(plan), into=read)
            self._rewire(plan.weight, composed)
            self._register(plan, edits)
        edits.commit()
        trainable = any(plan.weight.tensor.requires_grad for plan in planned)
        for name, tensor in shared.items():
            self.graph_module.register_parameter(name, nn.Parameter(tensor, requires_grad=trainable))

    def _flag(self, plan: _Planned) -> str | None:
        """Install a mode flag beside the parts if training updates the scheme's state."""
        if not self.scheme.dynamic:
            return None
        owner = plan.weight.owners[0]
        name = f"{owner.name}_{emission.MODE}"
        flag = emission.mode_flag()
        owner.module.add_module(name, flag.train(owner.module.training))
        return join(owner.path, name)

    @staticmethod
    def _fetch_at(use: Node, reads: list[Node]) -> Node | None:
        """Return a node that fetches the weight, moved to its first use, or None if modules alone use it."""
        if use.op == "get_attr" or not reads:
            return use if reads else None
        use.prepend(reads[0])
        return reads[0]

    @staticmethod
    def _uses(weight: Weight) -> list[Node]:
        return [*weight.reads, *(site.node for site in weight.sites if site.module is not None)]

    @staticmethod
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

    def _register(self, plan: _Planned, edits: Edits) -> None:
        """Put the parts in the weight's place, in every module that holds it."""
        trains = plan.weight.tensor.requires_grad
        tensors = {
            name: part if name in self.scheme.state else nn.Parameter(part, requires_grad=trains)
            for name, part in plan.parts.items()
        }
        for owner in plan.weight.owners:
            edits.replace(owner.module, [owner.name], {f"{owner.name}_{name}": part for name, part in tensors.items()})

    def _converted(self, plan: _Planned) -> Converted:
        info = plan.weight.info
        return Converted(
            fqn=info.fqn,
            op=", ".join(info.ops),
            scheme=self.scheme.name,
            keys=(*plan.targets.values(), *self.scheme.shared),
            dims=plan.spec.dims,
            max_abs_error=plan.error,
        )
