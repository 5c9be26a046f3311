"""Who reads the tensors of a graph module: by fetching them, or by calling the module that holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from torch import Tensor, nn
from torch.fx import Graph, Node

from wnconvert.fitness import reason_against_values
from wnconvert.fusing.flow import readers
from wnconvert.fusing.layers import Layer
from wnconvert.graph.entries import Entries, join, locate
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import is_erased
from wnconvert.weights import expansion


class Reads:
    """The reads of each tensor, counted once for the whole model, before anything is changed.

    Args:
        model: what holds the tensors and modules.
        graphs: its graph, or those of its parts over the names of the whole model.
        shown: the modules that these graphs look into, so that a call of one is no read by itself.
    """

    def __init__(self, model: nn.Module, graphs: Iterable[Graph], shown: Collection[nn.Module] = ()) -> None:
        self.entries = Entries(model)
        self._fetches: dict[int, list[Node]] = defaultdict(list)
        self._callers: dict[int, list[Node]] = defaultdict(list)
        self._hidden: dict[int, Reason] = {}
        #: the calls of each module, by the module
        self._calls: dict[nn.Module, list[tuple[str, Node]]] = defaultdict(list)
        for node in (node for graph in graphs for node in graph.nodes):
            if node.op == "get_attr" and (tensor := self.entries.tensors.get(str(node.target))) is not None:
                self._fetches[id(tensor)].append(node)
            elif node.op == "call_module":
                module = locate(model, str(node.target))
                self._calls[module].append((str(node.target), node))
                if expansion.rule_of_module(module) is None and any(True for _ in module.children()):
                    if module not in shown:
                        why = Why.OPAQUE(read="it is also read inside", module=node.target, kind=type(module).__name__)
                        self._hidden |= {id(tensor): why for tensor in module.parameters()}
                    continue
                for tensor in (*module.parameters(), *module.buffers()):
                    self._callers[id(tensor)].append(node)

    def tensor(self, fqn: str) -> Tensor | None:
        """Return the tensor of a dotted name."""
        return self.entries.tensors.get(fqn)

    def reason_against(self, layer: Layer, bias: str | None, untie: bool) -> Reason | None:
        """Return why weight and bias of a layer cannot become others, or None if they can.

        Args:
            layer: the layer.
            bias: dotted name of its bias, if it has one.
            untie: whether a weight that others read or hold may get a value of its own here.
        """
        for fqn in filter(None, (layer.fqn, bias)):
            tensor = self.tensor(fqn)
            if tensor is None:
                return Why.COMPUTED(who=layer.node.name)
            if reason := _reason_against(tensor):
                return reason
            if id(tensor) in self._hidden:
                return self._hidden[id(tensor)]
            others = [owner.fqn for owner in self.entries.owners(tensor) if owner.fqn != fqn]
            count = self._count(tensor)
            if others and not untie:
                return Why.TIED(fqn=fqn, other=others[0])
            if count > 1 and not (untie and self._may_be_untied(layer, fqn, others)):
                return Why.CALLED_TWICE(weight=fqn, count=count)
        return None

    def _may_be_untied(self, layer: Layer, fqn: str, others: list[str]) -> bool:
        """Return whether what the layer reads can change without what others read: a module has one weight alone."""
        if layer.weight is None:
            fetched = any(node.target == fqn for node in self.fetches(fqn))
            return bool(others) and not fetched and self.count_calls(locate(self.entries.root, layer.stem)) == 1
        return fqn == layer.fqn and readers(layer.weight).count(layer.reader) == 1

    def untied(self, layer: Layer) -> str | None:
        """Return another name under which others may go on to read the weight of a layer, if there is one."""
        tensor = self.tensor(layer.fqn)
        owners = [] if tensor is None else self.entries.owners(tensor)
        return next((owner.fqn for owner in owners if owner.fqn != layer.fqn), None)

    def is_read(self, fqn: str) -> bool:
        """Return whether any node that is left reads a tensor."""
        tensor = self.tensor(fqn)
        return tensor is not None and self._count(tensor) > 0

    def fetches(self, fqn: str) -> list[Node]:
        """Return the nodes that are left and fetch a tensor."""
        tensor = self.tensor(fqn)
        return [] if tensor is None else list(filter(_is_left, self._fetches[id(tensor)]))

    def _count(self, tensor: Tensor) -> int:
        """Return how many nodes that are left read a tensor."""
        fetched = sum(len(readers(node)) for node in self._fetches[id(tensor)] if _is_left(node))
        return fetched + sum(map(_is_left, self._callers[id(tensor)]))

    def count_calls(self, module: nn.Module) -> int:
        """Return how many nodes that are left call a module."""
        return sum(_is_left(node) for _, node in self._calls.get(module, ()))

    def is_called_below(self, path: str) -> bool:
        """Return whether any node that is left calls a module, or one that is below it."""
        below = (node for calls in self._calls.values() for name, node in calls if _is_below(name, path))
        return any(map(_is_left, below))


def _reason_against(tensor: Tensor) -> Reason | None:
    """Return why a weight or bias cannot be computed anew."""
    if type(tensor) not in (nn.Parameter, Tensor):
        return Why.SUBCLASS(kind=type(tensor).__name__)
    return reason_against_values(tensor)


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(join(path, ""))


def _is_left(node: Node) -> bool:
    return not is_erased(node)
