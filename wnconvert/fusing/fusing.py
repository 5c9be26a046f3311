"""Move the affine maps of a graph into the layers beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from wnconvert.fusing.affines import AffineCall, Affines, rest_of
from wnconvert.fusing.flow import CASTS, Flow, readers
from wnconvert.fusing.layers import Layer, computes_weight, layer_of
from wnconvert.fusing.reads import Reads
from wnconvert.fusing.requirements import Refused, Requirements, from_last
from wnconvert.fusing.surgery import drop_module, forget, put, replace_module, rest_as_module
from wnconvert.fusion import Affine, fuse_after, fuse_before, holds, rounded
from wnconvert.graph.entries import has_attribute, join, locate
from wnconvert.reasons import Reason, Why
from wnconvert.report import Fused, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.torch_private import OpOverload, is_erased, parameters_of
from wnconvert.weights import expansion

aten = torch.ops.aten


@dataclass
class _Taken:
    """A layer with the weight and bias that it gets, in float64 until all that it takes in is known."""

    layer: Layer
    weight: Tensor
    bias: Tensor | None
    old_bias: str | None


@dataclass
class Fusing:
    """One run over a graph module, which is changed in place.

    Args:
        graph_module: the graph.
        chosen: the fusions that are made, by name.
        selection: which normalizations, by their dotted names.
        untie: give a tied weight that takes in a map a value of its own.
        keep: the module whose forward goes on calling what it calls: only calls of modules are fused, and modules take
            the place of those that are fused. None where the graph alone counts.
        reads: who reads the tensors of the model, where the graph is one of several; by default, who does in the graph.
    """

    graph_module: GraphModule
    chosen: Collection[str]
    selection: Selection
    untie: bool = False
    keep: nn.Module | None = None
    reads: Reads | None = None
    fused: list[Fused] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._flow = Flow(self.graph_module)
        self._reads = self.reads or Reads(self.graph_module, [self.graph_module.graph])
        self._needs = Requirements(self.graph_module, self._reads)
        self._taken: dict[Node, _Taken] = {}
        self._gone: list[AffineCall] = []
        self._reasons: dict[Node, list[Reason]] = defaultdict(list)
        #: what is read instead of the nodes that are gone
        self._instead: dict[Node, Node] = {}

    def run(self) -> None:
        """Fuse what can be fused: first into what comes before, as most batch norms; then into what comes after."""
        calls = [call for call in Affines(self.graph_module) if call.fusion in self.chosen]
        left = [call for call in calls if not self._try(call, self._fuse_after)]
        for call in reversed(left):
            if not self._try(call, self._fuse_before):
                reasons = self._reasons[call.node]
                reason = next((each for each in reasons if each.why is not Why.NO_LAYER), reasons[-1])
                if _is_norm(call) or (call.tensors and reason.why is not Why.NO_LAYER):
                    self.skipped.append(Skipped(call.fqn, call.fusion, reason))
        self.skipped.reverse()
        for taken in self._taken.values():
            self._install(taken)
        for call in self._gone:
            self._drop(call)

    def _try(self, call: AffineCall, fuse: Callable[[AffineCall], Fused]) -> bool:
        try:
            if reason := self.selection.reason_against(_as_chosen(call)) or call.reason:
                raise Refused(reason)
            self._needs.require_shape(call)
            self._needs.require_kept(call.tensors)
            while call.input in self._instead:
                call = replace(call, input=self._instead[call.input])
            self.fused.append(fuse(call))
        except Refused as refused:
            self._reasons[call.node].append(refused.reason)
            return False
        return True

    # ---- into the layer before it

    def _fuse_after(self, call: AffineCall) -> Fused:
        """Move a map into the layer whose output it changes."""
        if call.gain is not None:
            raise Refused(self._no_layer(call))
        layer = self._producer(call)
        self._require_alike(call, layer)
        self._taken[layer.node] = self._with(layer, call.affine, fuse_after)
        self._erase(call)
        return Fused(call.fqn, call.fusion, (layer.fqn,), "after")

    def _producer(self, call: AffineCall) -> Layer:
        """Return the layer whose output a map changes, which nothing else reads."""
        node, dim, reader = call.input, from_last(call), call.node
        cast: Node | None = None
        while True:
            others = [user for user in readers(node) if user is not reader]
            if others:
                raise Refused(Why.USED_ELSEWHERE(who=repr(others[0].name)))
            if (layer := layer_of(self.graph_module, node)) is not None:
                self._needs.require_channel(call, layer, dim)
                self._needs.require_dtype(call, layer, cast)
                return layer
            passed = self._flow.passed(node, dim)
            if passed is None:
                computed = computes_weight(self.graph_module, node)
                raise Refused(Why.COMPUTED(who=node.name) if computed else self._no_layer(call))
            cast = cast or (node if node.target in CASTS else None)
            reader = node
            node, dim = passed

    # ---- into the layers after it

    def _fuse_before(self, call: AffineCall) -> Fused:
        """Move a map into every layer that reads what it gives."""
        self._needs.require_own(call)
        if call.gain == ():
            self._require_one_call(call)
        if any(not isinstance(each, nn.Identity) for each in self._rest(call)):
            raise Refused(self._no_layer(call))
        self._needs.require_seen(call)
        layers = list(dict.fromkeys(self._consumers(call)))
        for layer in layers:
            self._require_alike(call, layer)
            if layer.surrounded and call.affine.shift is not None:
                raise Refused(Why.ZERO_PADDING(fqn=layer.fqn))
        self._needs.require_unchanged(call, layers)
        self._taken |= {layer.node: self._with(layer, call.affine, fuse_before) for layer in layers}
        if call.gain is None:
            self._erase(call)
        else:
            self._strip(call)
        return Fused(call.fqn, call.fusion, tuple(layer.fqn for layer in layers), "before")

    def _consumers(self, call: AffineCall) -> list[Layer]:
        found, others = [], []
        for result in call.results:
            for reader, value, dim, cast in self._flow.users(result, from_last(call)):
                layer = layer_of(self.graph_module, reader)
                if layer is None or layer.input is not value:
                    others.append(reader)
                    continue
                self._needs.require_channel(call, layer, dim)
                if not cast:
                    self._needs.require_dtype(call, layer, None)
                    self._needs.require_floats(call)
                found.append(layer)
        if others:
            raise Refused(Why.USED_ELSEWHERE(who=repr(others[0].name)) if found else self._no_layer(call))
        if not found:
            raise Refused(Why.UNREAD())
        return found

    # ---- what must hold

    def _no_layer(self, call: AffineCall) -> Reason:
        after = next((user.name for result in call.results for user in readers(result)), "nothing")
        return Why.NO_LAYER(before=repr(call.input.name), after=repr(after))

    def _require_alike(self, call: AffineCall, layer: Layer) -> None:
        if self.keep is not None:
            if layer.weight is not None or call.node.op != "call_module":
                raise Refused(Why.IN_FORWARD())
            self._require_one_call(call)

    def _require_one_call(self, call: AffineCall) -> None:
        if (count := self._reads.count_calls(locate(self.graph_module, call.fqn))) > 1:
            raise Refused(Why.CALLED_TWICE(fqn=call.fqn, count=count))
        if (read := next(filter(self._reads.fetches, call.tensors), None)) is not None:
            raise Refused(Why.USED_ELSEWHERE(what=repr(read)))

    def _require_weight(self, layer: Layer) -> None:
        module = locate(self.graph_module, layer.stem) if layer.weight is None else None
        if module is not None and (reason := expansion.reason_against(module)):
            raise Refused(reason)
        if layer.node in self._taken:
            return
        if reason := self._reads.reason_against(layer, bias := self._bias_of(layer), self.untie):
            raise Refused(reason)
        self._needs.require_kept(filter(None, (layer.fqn, bias)))

    # ---- the change

    def _bias_of(self, layer: Layer) -> str | None:
        if layer.weight is not None:
            return None if layer.bias is None else str(layer.bias.target)
        name = join(layer.stem, expansion.BIAS)
        return name if self._reads.tensor(name) is not None else None

    def _with(self, layer: Layer, affine: Affine, fuse: Callable[..., Any]) -> _Taken:
        """Return what a layer has once it has taken in a map, besides what it took in before."""
        self._require_weight(layer)
        taken = self._taken.get(layer.node) or self._as_it_is(layer)
        channels = layer.spec.channels_out if fuse is fuse_after else layer.spec.channels_in
        if affine.channels not in (None, channels(taken.weight)):
            others = f"has {channels(taken.weight)}"
            raise Refused(Why.CHANNELS(channels=affine.channels, dim=layer.channel, fqn=layer.fqn, others=others))
        weight, bias = fuse(taken.weight, taken.bias, affine, layer.spec)
        dtype = self._tensor(layer.fqn).dtype
        if not weight.is_meta and not holds(dtype, weight, bias):
            raise Refused(Why.INEXACT(fqn=layer.fqn, dtype=dtype))
        return replace(taken, weight=weight, bias=bias)

    def _as_it_is(self, layer: Layer) -> _Taken:
        name = self._bias_of(layer)
        weight, bias = self._tensor(layer.fqn), None if name is None else self._tensor(name).detach().double()
        return _Taken(layer, weight.detach().double(), bias, name)

    def _tensor(self, fqn: str) -> Tensor:
        tensor = self._reads.tensor(fqn)
        assert tensor is not None, fqn  # `_require_weight` asked
        return tensor

    def _rest(self, call: AffineCall) -> list[nn.Module]:
        """Return the modules that a batch norm calls once it has normalized."""
        module = locate(self.graph_module, call.fqn) if call.node.op == "call_module" else None
        return [getattr(module, name) for name in rest_of(module)] if isinstance(module, nn.Module) else []

    def _erase(self, call: AffineCall) -> None:
        rest = rest_of(locate(self.graph_module, call.fqn)) if call.node.op == "call_module" else []
        graph, value = self.graph_module.graph, call.input
        with graph.inserting_before(call.node):
            for name in rest:
                value = graph.call_module(join(call.fqn, name), (value,))
        for result in call.results:
            result.replace_all_uses_with(value)
            self._instead[result] = value
            self._needs.move(result, value)
        read = call.node.all_input_nodes
        for node in dict.fromkeys((*call.results, call.node)):
            graph.erase_node(node)
        expansion.erase_unused([node for node in read if node is not call.input])
        self._gone.append(call)

    def _strip(self, call: AffineCall) -> None:
        """Take the gain from a normalization that stays."""
        if not call.gain:
            module = locate(self.graph_module, call.fqn)
            module.elementwise_affine = False
            for name in parameters_of(module):
                parameters_of(module)[name] = None
            return
        node, read = call.node, call.node.all_input_nodes
        args, kwargs = list(node.args), dict(node.kwargs)
        for index, name in call.gain:
            if index < len(args):
                args[index] = None
            else:
                kwargs.pop(name, None)
        node.args, node.kwargs = tuple(args), kwargs
        expansion.erase_unused([each for each in read if each is not call.input])
        self._gone.append(call)

    def _install(self, taken: _Taken) -> None:
        """Give a layer its new weight and bias, rounded once."""
        layer = taken.layer
        owner = locate(self.graph_module, layer.stem) if layer.stem else self.graph_module
        old = self._tensor(layer.fqn)
        put(owner, self._name_alone(layer, owner), rounded(taken.weight, old), old)
        if taken.bias is None:
            return
        if taken.old_bias is not None:
            stem, _, name = taken.old_bias.rpartition(".")
            old_bias = self._tensor(taken.old_bias)
            put(locate(self.graph_module, stem) if stem else owner, name, rounded(taken.bias, old_bias), old_bias)
            return
        name = expansion.BIAS
        if layer.weight is not None and _is_taken(owner, name):
            name = _free_name(owner, f"{layer.name}_bias")
        put(owner, name, taken.bias.to(old.dtype), old)
        if layer.weight is not None:
            self._read_bias(layer, join(layer.stem, name))

    def _name_alone(self, layer: Layer, owner: nn.Module) -> str:
        """Return the name for the weight of a layer, under which nothing else reads it from now on."""
        fetches = [node for node in self._reads.fetches(layer.fqn) if node.target == layer.fqn]
        others = [(node, user) for node in fetches for user in node.users if user is not layer.reader]
        if layer.weight is None or not others:
            return layer.name
        graph, elsewhere = self.graph_module.graph, self._reads.untied(layer)
        if elsewhere is None:
            name = _free_name(owner, f"{layer.name}_untied")
            with graph.inserting_before(layer.reader):
                own = graph.create_node("get_attr", join(layer.stem, name))
            own.meta = dict(layer.weight.meta)
            layer.reader.replace_input_with(layer.weight, own)
            return name
        for node, user in others:
            with graph.inserting_before(user):
                read = graph.create_node("get_attr", elsewhere)
            read.meta = dict(node.meta)
            user.replace_input_with(node, read)
        return layer.name

    def _read_bias(self, layer: Layer, fqn: str) -> None:
        """Let a call of a function read a bias that it did not have."""
        graph, node = self.graph_module.graph, layer.node
        with graph.inserting_before(node):
            bias = graph.create_node("get_attr", fqn)
        if layer.takes_bias is not None:
            if layer.takes_bias < len(node.args):
                node.update_arg(layer.takes_bias, bias)
            else:
                node.update_kwarg(expansion.BIAS, bias)
            return
        add = aten.add.Tensor if isinstance(node.target, OpOverload) else torch.add
        with graph.inserting_after(node):
            added = graph.call_function(add, (node, bias))
        added.meta = dict(node.meta)
        node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)

    def _drop(self, call: AffineCall) -> None:
        """Drop what only a normalization read that is gone."""
        if call.node.op == "call_module" and is_erased(call.node):
            module = locate(self.graph_module, call.fqn)
            if self.keep is not None:
                replace_module(self.keep, module, rest_as_module(module))
            elif not self._reads.is_called_below(call.fqn) and not any(map(self._reads.is_read, call.tensors)):
                drop_module(self.graph_module, call.fqn, module)
            return
        counts = (join(fqn.rpartition(".")[0], "num_batches_tracked") for fqn in call.tensors if _is_mean(fqn))
        for fqn in (*call.tensors, *counts):
            stem, _, name = fqn.rpartition(".")
            owner = locate(self.graph_module, stem) if stem else self.graph_module
            if isinstance(owner, nn.Module) and not self._reads.is_read(fqn):
                for fetch in self._reads.fetches(fqn):
                    for node in (*fetch.users, fetch):  # what is asserted of it, and itself
                        self.graph_module.graph.erase_node(node)
                forget(owner, name)


def _is_mean(fqn: str) -> bool:
    return fqn.rpartition(".")[2] == "running_mean"


def _is_taken(owner: nn.Module, name: str) -> bool:
    return has_attribute(owner, name) and getattr(owner, name) is not None


def _free_name(owner: nn.Module, name: str) -> str:
    names = chain((name,), (f"{name}_{number}" for number in count(1)))
    return next(each for each in names if not _is_taken(owner, each))


def _as_chosen(call: AffineCall) -> WeightedOp:
    """Return a map as a selection sees weights."""
    return WeightedOp(call.fqn, (call.fusion,), (call.affine.channels or 1,), torch.float64)


def _is_norm(call: AffineCall) -> bool:
    """Return whether a map is one that people would ask about; products and sums are everywhere."""
    return call.fusion != "gain" or call.gain is not None or call.reason is not None
