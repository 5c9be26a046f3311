"""Where a folded weight lives: in the place of its parts, wherever those were registered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import count

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from wnconvert.graph.entries import Edits, Entries, Entry, has_attribute, join, locate, own_tensors
from wnconvert.naming import ORIGINAL, PARAMETRIZATIONS, is_original
from wnconvert.torch_private import children_of, parameters_of, transient_of
from wnconvert.verification import same_bits
from wnconvert.weights import expansion
from wnconvert.weights.expressions import Source


class Placement:
    """Registers folded weights and drops the parts that nothing reads any more.

    A weight whose parts are named after it gets its name back, be they those of a scheme or those of torch's own hooks
    and parametrizations. One that is computed from a single tensor of its own shape, such as
    ``normalize(self.weight)``, takes the place of that tensor, or a name with the suffix ``_folded`` if something still
    reads it. Any other becomes ``weight`` beside its first part. Where a name is taken, a number is added.

    Args:
        graph_module: the model, with the folded expressions already gone from its graph.
        entries: its tensors.
        fetches: the get_attr nodes that stand for folded weights.
    """

    def __init__(self, graph_module: GraphModule, entries: Entries, fetches: Collection[Node | None]) -> None:
        self._graph_module = graph_module
        self._entries = entries
        self._edits = Edits()
        self._read = self._still_read(fetches)
        self._places: dict[int, list[Entry]] = {}
        self._containers: list[tuple[Entry, nn.Module]] = []
        self._given: set[tuple[int, str]] = set()
        self._values: dict[tuple[int, frozenset[int]], list[tuple[Tensor, list[Entry]]]] = defaultdict(list)

    def put(self, source: Source, value: Tensor) -> None:
        """Note that ``value`` takes the place of the leaves of ``source``."""
        tensors = {str(leaf.target): self._entries.tensors[str(leaf.target)] for leaf in source.leaves}
        free = {id(tensor) for tensor in tensors.values() if id(tensor) not in self._read}
        anchor, new_name = self._anchor(source, tensors, free, value)
        # a module that is called twice, or tied parts, give the same weight twice
        alike = self._values[id(tensors[anchor]), frozenset(map(id, tensors.values()))]
        for earlier, places in alike:
            if same_bits(earlier, value):
                self._places[id(source)] = places
                return
        # what all weights have in common trains if any of them does, and says nothing of this one
        shared = source.scheme.shared if source.scheme else ()
        new = _as_entry(value, [tensor for fqn, tensor in tensors.items() if fqn not in shared])
        holders = self._entries.owners(tensors[anchor])
        homes = [self._home(holder, source) for holder in holders]
        number = next(
            n for n in count(1) if not any(self._is_taken(home, new_name(home.name, n), free) for home in homes)
        )
        places = []
        for holder, home in zip(holders, homes, strict=True):
            name = new_name(home.name, number)
            self._given.add((id(home.module), name))
            places.append(home._replace(name=name))
            persistent = holder.name not in transient_of(holder.module)
            old = [key for key, tensor in own_tensors(home.module) if id(tensor) in free]
            if old:
                self._edits.replace(home.module, old, {name: new}, persistent)
            elif home is holder:
                kept = {holder.name: tensors[anchor], name: new}
                self._edits.replace(holder.module, [holder.name], kept, persistent)
            else:
                self._edits.insert(home.module, {name: new}, persistent)
        self._places[id(source)] = places
        alike.append((value, places))

    def drop_unread(self, source: Source) -> None:
        """Note that all leaves of ``source`` go which nothing reads any more, the shared ones included."""
        for leaf in source.nodes:
            tensor = self._entries.tensors.get(str(leaf.target)) if leaf.op == "get_attr" else None
            if tensor is not None and id(tensor) not in self._read:
                for owner in self._entries.owners(tensor):
                    self._edits.replace(owner.module, [owner.name], {})

    def commit(self) -> None:
        """Make the changes."""
        self._edits.commit()
        for home, container in self._containers:
            if not any(own_tensors(module) for module in container.modules()):
                parametrized = children_of(home.module)[PARAMETRIZATIONS]
                children_of(parametrized).pop(home.name, None)  # type: ignore[arg-type]
                if not children_of(parametrized):  # type: ignore[arg-type]
                    del children_of(home.module)[PARAMETRIZATIONS]

    def places(self, source: Source) -> list[Entry]:
        """Return where the value of ``source`` was put."""
        return self._places[id(source)]

    def _home(self, holder: Entry, source: Source) -> Entry:
        """Return where a weight goes whose anchor is at ``holder``: out of the container of a parametrization."""
        path, _, name = holder.path.rpartition(".")
        path, _, container = path.rpartition(".") if "." in path else ("", "", path)
        if source.stem is None or source.scheme is not None or container != PARAMETRIZATIONS:
            return holder
        module = self._graph_module.get_submodule(path)
        if has_attribute(module, name):
            return holder  # a live module that composes the weight itself, whenever it is read
        home = Entry(module, path, name)
        self._containers.append((home, holder.module))
        return home

    def _is_taken(self, owner: Entry, name: str, free: set[int]) -> bool:
        """Return whether another folded weight has that name, or something that stays."""
        if (id(owner.module), name) in self._given:
            return True
        return has_attribute(owner.module, name) and id(getattr(owner.module, name)) not in free

    def _anchor(self, source: Source, tensors: dict[str, Tensor], free: set[int], value: Tensor) -> tuple[str, _Rename]:
        """Return the leaf whose owners hold the folded weight too, and how its name gives the weight's."""
        if source.stem is not None and source.scheme is not None:
            suffix = f"_{source.scheme.direction}"
            anchor = source.stem + suffix
            if locate(self._graph_module, source.stem) is None:
                return anchor, _Rename(remove=suffix)
            return anchor, _Rename(remove=suffix, add="_folded")
        alike = [fqn for fqn, tensor in tensors.items() if tensor.shape == value.shape]
        if source.stem is not None:
            originals = [fqn for fqn in tensors if is_original(fqn)]
            anchor = next((fqn for fqn in originals if fqn in alike), originals[0])
            return anchor, _Rename(remove=ORIGINAL)
        alike.sort(key=lambda fqn: id(tensors[fqn]) not in free)
        if alike:
            return alike[0], _Rename(add="" if id(tensors[alike[0]]) in free else "_folded")
        anchor = next(iter(tensors))
        taken = locate(self._graph_module, join(anchor.rpartition(".")[0], "weight")) is not None
        return anchor, _Rename(add="_folded") if taken else _Rename(to="weight")

    def _still_read(self, fetches: Collection[Node | None]) -> set[int]:
        """Return the ids of the tensors that the graph reads."""
        read: set[int] = set()
        for node in self._graph_module.graph.nodes:
            if node.op == "get_attr" and node not in fetches:
                read.add(id(locate(self._graph_module, str(node.target))))
            elif node.op == "call_module":
                module = self._graph_module.get_submodule(str(node.target))
                if expansion.rule_of_module(module):
                    # it reads its weight and bias, and not the parts that it still holds
                    read.update(id(parameters_of(module).get(name)) for name in (expansion.WEIGHT, expansion.BIAS))
                else:
                    read.update(map(id, (*module.parameters(), *module.buffers())))
        return read


class _Rename:
    """A change of a name: a suffix removed, a suffix added, or another name altogether."""

    def __init__(self, remove: str = "", add: str = "", to: str = "") -> None:
        self._remove, self._add, self._to = remove, add, to

    def __call__(self, name: str, number: int = 1) -> str:
        """Return the new name; from the second on they end in their number."""
        return (self._to or name.removesuffix(self._remove) + self._add) + (f"_{number}" if number > 1 else "")


def _as_entry(value: Tensor, leaves: Collection[Tensor]) -> Tensor:
    """Return ``value`` as what its leaves were: a parameter if one of them was, that trains if one of those did."""
    parameters = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]
    if not parameters:
        return value
    return nn.Parameter(value, requires_grad=any(leaf.requires_grad for leaf in parameters))
