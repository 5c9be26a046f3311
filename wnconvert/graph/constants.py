"""Parameter-only subgraphs: find them, see that they are pure, evaluate them."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from wnconvert.fitness import is_distributed
from wnconvert.graph.entries import Entries, locate
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import TorchDispatchMode, is_dropout, is_traceable_wrapper_subclass, schema_of, weight_norm
from wnconvert.verification import same_bits


class ImpureError(Exception):
    """A weight has no value to fold: it is not always the same, or not all that happens, or fits no plain weight."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def constant_nodes(graph: Graph) -> set[Node]:
    """Return the nodes whose value depends on parameters and buffers alone.

    A function that takes nothing from the graph, such as ``torch.ones(3)``, may take part, but yields no constant by
    itself. Nor may ``torch.randn(3)`` make what it is added to look like one that depends on inputs: such a weight is
    found here and refused when it is evaluated.
    """
    constants: set[Node] = set()
    factories: set[Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            constants.add(node)
        elif node.op in ("call_function", "call_method", "call_module"):
            inputs = node.all_input_nodes
            if all(each in constants or each in factories for each in inputs):
                own = not constants.isdisjoint(inputs)
                if own:
                    constants.add(node)
                elif node.op != "call_module":
                    factories.add(node)
    return constants


def ancestors(root: Node, stop: Collection[Node] = ()) -> list[Node]:
    """Return ``root`` and all that it is computed from, each after its inputs; nodes of ``stop`` are left out."""
    order: dict[Node, None] = {}
    pending = [(root, False)]
    while pending:
        node, ready = pending.pop()
        if ready:
            order[node] = None
        elif node not in order and node not in stop:
            pending.append((node, True))
            pending += [(child, False) for child in node.all_input_nodes if child not in order]
    return list(order)


def is_mode_flag(module: Any) -> bool:
    """Return whether a module is the flag by which a graph tells training from evaluation.

    A `Dropout` of probability 1 passes its input in evaluation and gives zeros in training. It is the one way for a
    graph of plain torch functions to know the mode that survives pickling: a module's ``training`` attribute would be
    read once, when the graph is traced again on loading.
    """
    return type(module) is nn.Dropout and module.p == 1.0


def refuse_dropout(module: nn.Module) -> None:
    """Refuse what computes a weight if it drops some of it in training: its value in evaluation is not all it does.

    Raises:
        ImpureError: it does.
    """
    each: Any
    for each in module.modules():
        if is_dropout(each) and each.p > 0 and not is_mode_flag(each):
            raise ImpureError(Why.RANDOM(how=f" in training: {type(each).__name__}"))


def plain_copy(value: Tensor) -> Tensor:
    """Return a copy of a computed weight with its strides, on which torch chooses its kernels.

    Raises:
        ImpureError: its elements overlap in memory or have gaps between them, as after ``expand``.
    """
    copied = value.detach().clone()
    if copied.stride() != value.stride():
        raise ImpureError(Why.STRIDES(computed=value.stride()))
    return copied


def refuse_leaves(tensors: Iterable[Tensor]) -> None:
    """Refuse what a weight is computed from if nothing that is computed from it becomes a plain weight.

    Raises:
        ImpureError: one of the tensors is a subclass that wraps others, or one that several processes hold.
    """
    for tensor in tensors:
        if is_distributed(tensor):
            raise ImpureError(Why.SHARDED())
        if is_traceable_wrapper_subclass(tensor):
            raise ImpureError(Why.SUBCLASS(source=type(tensor).__name__))


def memory_of(tensor: Tensor) -> int:
    """Return what tensors over the same memory have in common, and no others; some have no memory that can be told."""
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse and other layouts, and tensors that wrap others
        return -id(tensor)


def raise_if_different(value: Any, again: Any) -> None:
    """Refuse an expression by what it gave on two evaluations.

    Raises:
        ImpureError: it gave two different tensors.
    """
    if isinstance(value, Tensor) and isinstance(again, Tensor) and not same_bits(value, again):
        raise ImpureError(Why.RANDOM(how=" or keeps a state: evaluated twice, it differs"))


class Evaluator:
    """Computes the values of constant nodes; each node is computed once, however many roots need it."""

    def __init__(self, graph_module: GraphModule) -> None:
        self._root = graph_module
        self._values: dict[Node, Any] = {}

    @cached_property
    def _guard(self) -> Guard:
        return Guard((*Entries(self._root).tensors.values(), *self._tensors(self._root.graph.nodes)))

    def value(self, root: Node, nodes: list[Node], shared: Collection[Node] = ()) -> Tensor:
        """Return the value of ``root`` in evaluation mode, as a tensor of its own.

        Args:
            root: a constant node.
            nodes: the nodes that it is computed from and itself, each after its inputs.
            shared: nodes that other roots need too; their values are kept.

        Raises:
            ImpureError: it draws random numbers, changes a parameter or buffer, is one itself, or is no plain tensor.
        """
        result = self.computed(root, nodes, shared)
        copied = plain_copy(result)
        if any(memory_of(result) == memory_of(leaf) for leaf in self._tensors(nodes)):
            # such as `detach`, which keeps gradients away, or a conversion that does nothing as long as the dtype stays
            raise ImpureError(Why.NOT_COMPUTED())
        return copied

    @torch.no_grad()
    def computed(self, root: Node, nodes: list[Node], shared: Collection[Node] = ()) -> Tensor:
        """Return what `value` makes a tensor of its own of; it may be a view of a parameter.

        Raises:
            ImpureError: it draws random numbers, changes a parameter or buffer, or is no plain tensor.
        """
        if shared:
            nodes = ancestors(root, self._values)
        refuse_leaves(self._tensors(nodes))
        local: dict[Node, Any] = {}
        if all(self._is_known(node) for node in nodes):
            self._run(nodes, local)
        else:
            with self._guard:
                # in the order of the graph, for what is called in place changes what comes after it
                self._run(sorted(nodes), local)
                if any(map(self._is_user_code, nodes)):
                    again: dict[Node, Any] = {}
                    self._run(sorted(nodes), again)
                    raise_if_different(local[root], again[root])
        self._values.update((node, local[node]) for node in nodes if node in shared)
        result = local[root] if root in local else self._values[root]
        if not isinstance(result, Tensor):
            raise ImpureError(Why.NOT_COMPUTED(kind=type(result).__name__))
        return result

    def _tensors(self, nodes: Iterable[Node]) -> Iterator[Tensor]:
        """Yield the tensors that nodes fetch."""
        for node in nodes:
            tensor = locate(self._root, str(node.target)) if node.op == "get_attr" else None
            if isinstance(tensor, Tensor):
                yield tensor

    def _run(self, nodes: Iterable[Node], local: dict[Node, Any]) -> None:
        def load(node: Node) -> Any:
            return local[node] if node in local else self._values[node]

        for node in nodes:
            if node.op == "get_attr":
                local[node] = locate(self._root, str(node.target))
                continue
            args, kwargs = map_arg(node.args, load), map_arg(node.kwargs, load)
            if node.op == "call_function":
                local[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            elif node.op == "call_method":
                local[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                module = locate(self._root, str(node.target))
                refuse_dropout(module)
                local[node] = args[0] if is_mode_flag(module) else module(*args, **kwargs)

    def _is_user_code(self, node: Node) -> bool:
        """Whether a node runs unknown code, whose draws from Python's or NumPy's generators the guard does not see."""
        if node.op == "call_module":
            return not type(locate(self._root, str(node.target))).__module__.startswith("torch.nn.")
        module = getattr(node.target, "__module__", None) or "torch"
        return node.op == "call_function" and module.partition(".")[0] not in ("torch", "_operator", "builtins")

    def _is_known(self, node: Node) -> bool:
        if node.op == "get_attr":
            return True
        if node.op == "call_module":
            return is_mode_flag(locate(self._root, str(node.target)))
        return node.target in (_PURE_FUNCTIONS if node.op == "call_function" else _PURE_METHODS)


class Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops at the first ATen op that is random or writes to the memory of the given tensors."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._leaves = set(map(memory_of, leaves))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise ImpureError(Why.RANDOM(how=f": {func}"))
        schema = schema_of(func)
        if schema.is_mutable:
            written = zip(schema.arguments, args, strict=False)
            for argument, value in (*written, *self._written_by_name(func, kwargs or {})):
                writes = argument.alias_info is not None and argument.alias_info.is_write
                if writes:
                    self._refuse_leaf(func, value)
        if func in _UNDECLARED_WRITES and args[5]:
            for statistics in args[3:5]:
                self._refuse_leaf(func, statistics)
        return func(*args, **(kwargs or {}))

    def _refuse_leaf(self, func: Any, value: Any) -> None:
        if isinstance(value, Tensor) and memory_of(value) in self._leaves:
            raise ImpureError(Why.CHANGED_IN_PLACE(does="changes", how=f"in place: {func}"))

    @staticmethod
    def _written_by_name(func: Any, kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
        return [(argument, kwargs[argument.name]) for argument in schema_of(func).arguments if argument.name in kwargs]


#: their schemas do not say that they update the running statistics, arguments 3 and 4, when argument 5 is true
_UNDECLARED_WRITES = frozenset(
    (
        torch.ops.aten.native_batch_norm.default,
        torch.ops.aten.cudnn_batch_norm.default,
        torch.ops.aten.miopen_batch_norm.default,
    )
)

#: what needs no guard, so that the common expressions are evaluated at full speed
_PURE_FUNCTIONS = frozenset(
    (
        *(weight_norm, torch.norm_except_dim, torch.linalg.vector_norm, torch.mean, torch.var, torch.std),
        *(torch.stack, torch.where, torch.dot, torch.vdot, torch.mv, torch.matmul, torch.sum, torch.norm),
        *(torch.sqrt, torch.rsqrt, torch.hypot, torch.exp, torch.log, torch.flatten, torch.permute, torch.reshape),
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.matmul),
        *(operator.gt, operator.getitem, F.normalize, torch.zeros_like, torch.ones_like, torch.full_like),
    )
)
_PURE_METHODS = frozenset(
    (
        *("abs", "exp", "log", "sqrt", "rsqrt", "mean", "sum", "var", "std", "norm", "pow", "square", "clamp"),
        *("gt", "mul"),
        *("t", "transpose", "permute", "flatten", "reshape", "view", "view_as", "unsqueeze", "squeeze", "expand"),
        *("detach", "type_as", "to", "float", "double", "half", "bfloat16", "new_ones", "contiguous"),
    )
)
