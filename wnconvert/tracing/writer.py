"""Write what a forward does on proxies as nodes, and see in each what its graph would lose."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.proxy import Scope, TraceError
from torch.overrides import is_tensor_method_or_property

from wnconvert.graph.entries import has_attribute
from wnconvert.graph.writes import may_alias, may_be, written_by
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import TorchDispatchMode, is_erased, name_of_call, schema_of, set_grad_enabled
from wnconvert.tracing.circumstances import ambient
from wnconvert.tracing.hazards import Hazard, HazardError
from wnconvert.tracing.proxies import (
    TENSOR,
    UNKNOWN,
    Tracer,
    Value,
    attribute_of,
    is_value,
    kind_of,
    leaves_in,
    value_of,
)

#: how the tensors are called that a forward makes and that the graph holds
CONSTANT = "_tensor_constant"


@dataclass(eq=False)
class Frame:
    """One run of one module's forward.

    Attributes:
        path: dotted name of the module.
        items: the nodes that it wrote, and the frames of the modules that it called, in order.
        hazards: what was seen in it, besides what was seen in the modules that it called.
        constants: the tensors that any forward of this trace made, by the name under which the graph fetches them.
    """

    path: str
    constants: dict[str, Tensor]
    items: list[Node | Frame] = field(default_factory=list)
    hazards: list[HazardError] = field(default_factory=list)


class Writer(Tracer):
    """Writes the nodes of a graph while a forward runs.

    Args:
        observed: the hazards to look for.
        finding: go on where a graph would be unsound: it is only to show which tensors enter which ops.

    Attributes:
        frame: the last run of the root's forward.
        remarks: why parameters cannot become weights that are composed when they are read, by dotted name.
    """

    proxy_buffer_attributes = True
    #: the stand-in's modules, its tensors, the names of these by id, and the ids of those in plain attributes
    _stand_ins: dict[str, Any]
    _tensors: dict[str, Tensor]
    _fqns: dict[int, str]
    _held: Any

    def __init__(self, observed: frozenset[Hazard], finding: bool) -> None:
        self.remarks: dict[str, Reason] = {}
        self._observed, self._finding, self.handling = observed, finding, False
        self.begin()

    def begin(self) -> None:
        """Begin a new graph."""
        self.graph = Graph()
        self.scope, self.module_stack = Scope("", None), OrderedDict()
        self.node_name_to_scope = {}
        self.frame = Frame("", {})
        self._frames = [self.frame]
        self._cache: dict[str, Value] = {}
        self._constants: set[Node] = set()
        #: computed from buffers and constants alone: torch.fx computes that when it loads a pickled graph
        self._early: set[Node] = set()
        #: memory of the tensors that the forward made; True once the graph holds one of them
        self._made: dict[int, bool] = {}
        self._keep: list[Tensor] = []
        self._ambient: tuple[Any, ...] | None = None

    # ---- hazards

    def observe(self, hazard: Hazard, detail: str = "") -> None:
        """Leave the forward that runs, if the hazard is looked for."""
        if hazard in self._observed:
            raise self.refuse(hazard, detail)

    def refuse(self, hazard: Hazard, detail: str = "") -> HazardError:
        """Note a hazard of the module whose forward runs, and return it to be raised.

        It is noted too because a forward may catch what is raised.
        """
        error = HazardError(hazard, detail)
        self._frames[-1].hazards.append(error)
        return error

    def undecidable(self, what: str) -> Exception:
        """Return what to raise where a forward asks for a value."""
        if Hazard.VALUE in self._observed:
            return self.refuse(Hazard.VALUE, what)
        return TraceError(f"{Hazard.VALUE.value} ({what})")

    def remark(self, tensor: Tensor, reason: Reason) -> None:
        """Note why a parameter cannot become a weight that is composed when it is read."""
        fqn = self._fqns.get(id(tensor))
        if fqn is not None:
            self.remarks.setdefault(fqn, reason)

    # ---- nodes

    def fetch(self, tensor: Tensor) -> Any:
        """Return the proxy of a tensor that the model holds, and any other tensor as it is."""
        fqn = self._fqns.get(id(tensor))
        if fqn is None:
            return tensor
        if fqn not in self._cache:
            self._cache[fqn] = value_of(self.create_node("get_attr", fqn, (), {}), self, TENSOR, tensor)
        return self._cache[fqn]

    def create_arg(self, a: Any) -> Any:
        """Return what stands in a node for an argument."""
        if is_value(a):
            return a.node
        if isinstance(a, Tensor):
            return self._tensor_argument(a)
        if isinstance(a, (dict, list, tuple)) and type(a) not in _CONTAINERS:
            return self._container(a)
        if isinstance(a, nn.Module):
            raise self.refuse(Hazard.CALL, "a module is an argument")
        return super().create_arg(a)

    def _container(self, a: Any) -> Any:
        """Write how a container of a class of its own is made: torch.fx knows its base alone."""
        if hasattr(a, "_fields"):
            return self.create_node("call_function", type(a), tuple(self.create_arg(item) for item in a), {})
        raise self.refuse(Hazard.TYPE, f"it makes a {type(a).__name__}")

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Write a node, unless the modes in force are not those in which the graph will be run."""
        in_force = None if self._finding or kind in ("get_attr", "output") else self._ambient
        if in_force is not None and ambient(self.handling) != in_force:
            self.observe(Hazard.CONTEXT)
        node = super().create_node(kind, target, *args, **kwargs)
        self._frames[-1].items.append(node)
        changed = self._changed_by(node) if kind.startswith("call_") else set()
        for base in changed:
            if base.op == "get_attr" and isinstance(held := self._tensors.get(str(base.target)), nn.Parameter):
                self.remark(held, Why.CHANGED_IN_PLACE(who="a forward", what="it"))
        if not self._finding:
            self._observe_changes(node, changed)
        return node

    def _observe_changes(self, node: Node, changed: set[Node]) -> None:
        """See whether a call changes what a graph cannot let it change."""
        is_early = self._early.issuperset(node.all_input_nodes)
        if changed and not self._constants.isdisjoint(changed):
            self.observe(Hazard.WRITE)
        if changed and is_early:
            self.observe(Hazard.STATE, "a buffer is updated from buffers alone, which loading a pickle would do")
        is_buffer = node.op == "get_attr" and not isinstance(self._tensors.get(str(node.target)), nn.Parameter)
        if is_buffer or (is_early and node.op in ("call_function", "call_method")):
            self._early.add(node)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Write a node and return what stands for its value."""
        known = kind_of(kind, target, args) if kind in ("call_function", "call_method") else UNKNOWN
        options["proxy_factory_fn"] = lambda node: value_of(node, self, known)
        return super().create_proxy(kind, target, args, kwargs, *rest, **options)

    def call_torch(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write a torch function as a node, or run it where it has nothing to do with the model."""
        name = function.__name__
        if name == "__get__" and function.__self__.__name__ in _FACTS:
            return function(*args)  # of a parameter that a module lists; what changes with the model is no fact
        args, kwargs = self._with_proxies(args), self._with_proxies(kwargs)
        if not any(map(is_value, leaves_in((args, kwargs)))):
            return self._compute(function, args, kwargs)
        if name in ("__set__", "__delete__"):
            raise self.refuse(Hazard.WRITE, f"the attribute {function.__self__.__name__!r} of a tensor")
        if name == "__get__":
            return self._attribute(args[0], function.__self__.__name__)
        if isinstance(function, torch.ScriptMethod):
            raise self.refuse(Hazard.CALL, "compiled code")
        if not is_tensor_method_or_property(function) and getattr(Tensor, name, None) is not function:
            return self.create_proxy("call_function", function, args, kwargs, name=name_of_call(self.graph, name))
        if not is_value(args[0]):
            return self.create_proxy("call_method", name, args, kwargs)
        if name in Value.__dict__:
            return getattr(args[0], name)(*args[1:], **kwargs)
        return self.call_method(name, args[0], args[1:], kwargs)

    def call_method(self, name: str, value: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write the call of a method of a tensor."""
        if value.tensor is not None and name in _OF_PARAMETERS:
            self.remark(value.tensor, Why.FORWARD_LOOKS(asks="calls", name=name))
        return self.create_proxy("call_method", name, (value, *self._with_proxies(args)), self._with_proxies(kwargs))

    def _attribute(self, value: Value, name: str) -> Any:
        if value.tensor is not None and name in _OF_PARAMETERS:
            self.remark(value.tensor, Why.FORWARD_LOOKS(asks="asks for", name=name))
        return attribute_of(value, name)

    def _with_proxies(self, x: Any) -> Any:
        """Replace the model's own tensors, which a forward may get without asking a module for them."""
        if is_value(x):
            return x
        if isinstance(x, Tensor):
            if id(x) not in self._held:
                self.remark(x, Why.FORWARD_LOOKS(where="a list of parameters"))
            return self.fetch(x)
        if type(x) in (tuple, list):
            return type(x)([self._with_proxies(item) for item in x])
        if type(x) is dict:
            return {key: self._with_proxies(item) for key, item in x.items()}
        return x

    def _compute(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if function is set_grad_enabled:
            return function(*args, **kwargs)  # `ambient` shows it
        if self._finding:
            return self.create_proxy("call_function", function, args, kwargs)  # nothing need be drawn or made
        with _Making(self):
            return function(*args, **kwargs)

    def made(self, function: Any, args: tuple[Any, ...], result: Any) -> None:
        """Note what an ATen op made of nothing, or wrote to."""
        if torch.Tag.nondeterministic_seeded in function.tags:
            self.observe(Hazard.RANDOM, str(function))
        if function is torch.ops.aten.detach_.default:
            return  # how `torch.tensor` ends; it changes no memory
        for argument, value in zip(schema_of(function).arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and isinstance(value, Tensor) and self._made.get(_memory(value), True):
                self.observe(Hazard.WRITE, str(function))
        is_new = function is torch.ops.aten.lift_fresh.default  # and how it begins
        read = set() if is_new else {_memory(x) for x in args if isinstance(x, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and _memory(tensor) not in read:
                self._made.setdefault(_memory(tensor), False)
                self._keep.append(tensor)  # so that its memory is not given to another one

    def _tensor_argument(self, tensor: Tensor) -> Node:
        known = self.fetch(tensor)
        if is_value(known):
            return known.node
        if isinstance(tensor, nn.Parameter):
            raise self.refuse(Hazard.STATE, "a parameter that no module holds")
        if tensor.requires_grad:
            self.observe(Hazard.CONSTANT, "that takes gradients")
        self._made[_memory(tensor)] = True
        name = next((name for name, held in self.frame.constants.items() if held is tensor), None)
        if name is None:
            name = f"{CONSTANT}{len(self.frame.constants)}"
            self.frame.constants[name] = tensor
        node = self.create_node("get_attr", name, (), {})
        self._constants.add(node)
        return node

    def _forbid_returned_constants(self, result: Any) -> None:
        """A tensor that the model returns is the caller's, who may write to it."""
        for x in leaves_in(result):
            if self._shows_a_constant(x.node) if is_value(x) else isinstance(x, Tensor) and self.fetch(x) is x:
                self.observe(Hazard.CONSTANT, "and returns it")

    def _shows_a_constant(self, node: Node) -> bool:
        """Whether a node is a constant or a view of one; not whether a module that gets one returns it."""
        while node not in self._constants:
            if node.op not in ("call_function", "call_method") or not may_alias(node) or not node.all_input_nodes:
                return False
            node = node.all_input_nodes[0]
        return True

    def _changed_by(self, node: Node) -> set[Node]:
        """Return all nodes whose memory a call may change."""
        module = self._stand_ins.get(str(node.target)) if node.op == "call_module" else None
        # nn.Module builds a message for what it has not, which costs more than all the rest
        in_place = module is not None and has_attribute(module, "inplace") and module.inplace is True
        written = node.all_input_nodes if in_place else written_by(node)
        return {base for target in written for base in may_be(target)}

    def _take_back(self, mark: Node | None) -> None:
        """Erase what was traced after ``mark``."""
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        self._cache = {name: proxy for name, proxy in self._cache.items() if not is_erased(proxy.node)}
        self._constants = {node for node in self._constants if not is_erased(node)}
        self._early = {node for node in self._early if not is_erased(node)}


class _Making(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows the writer every ATen op that a forward runs on what it made itself."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._writer = writer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._writer.made(func, args, None)  # before a number is drawn or a tensor written to
        result = func(*args, **(kwargs or {}))
        self._writer.made(func, args, result)
        return result


#: containers that torch.fx writes as what they are
_CONTAINERS = frozenset((dict, list, tuple, torch.Size, immutable_dict, immutable_list))

#: what a parameter has, and a tensor that is computed has not or has in another way
_OF_PARAMETERS = frozenset(("is_leaf", "grad", "grad_fn", "register_hook", "requires_grad_", "retain_grad"))

#: attributes of a tensor that say nothing of its value and that no conversion of the model changes
_FACTS = frozenset(("shape", "ndim", "layout", "is_sparse", "is_quantized", "is_meta"))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
