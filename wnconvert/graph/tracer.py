"""A tracer that does not give up: what it cannot look into stays one node.

Where a function inspects the shape of its argument, or a module takes a decision on a value, plain symbolic tracing
fails as a whole. Here the failing helper function becomes one `call_function` node, and if that does not help, the
innermost failing module one `call_module` node; what was traced of it is taken back and tracing goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from wnconvert.graph.entries import Entries

#: packages whose functions torch.fx traces itself
_TRACED_PACKAGES = ("torch", "builtins", "_operator", "wnconvert")

#: how torch.fx names the tensors that it meets in tracing and that are neither parameters nor buffers
CONSTANT = "_tensor_constant"


class PatientTracer(Tracer):
    """Traces a model; afterwards `opaque` and `functions` say what it could not look into, and why.

    Args:
        with_defaults: trace a call that leaves out all optional arguments.

    Attributes:
        opaque: dotted names of modules that are one node, with the reason.
        functions: qualified names of helper functions that are one node, with the reason.
    """

    proxy_buffer_attributes = True

    def __init__(self, with_defaults: bool = False) -> None:
        super().__init__()
        self._with_defaults = with_defaults
        self._tensors: dict[str, Tensor] = {}
        self.opaque: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._cache: dict[str, Proxy] = {}
        self._patched: list[tuple[dict[str, Any], str, Any]] = []

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> Graph:
        """Trace ``root``; its modules and the functions it calls are afterwards as they were."""
        self._tensors = dict(Entries(root)) if isinstance(root, nn.Module) else {}
        with _untouched(root):
            try:
                for _ in range(8):
                    try:
                        return super().trace(root, concrete_args)
                    except Exception as error:
                        if not self._wrap_culprit(error, root):
                            raise
                return super().trace(root, concrete_args)
            finally:
                for namespace, name, function in self._patched:
                    namespace[name] = function

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """Return what is traced and its arguments: placeholders, or the defaults of those that have one."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        if self._with_defaults:
            defaults = [default_of(arg.node) if isinstance(arg, Proxy) else () for arg in args]
            args = [default[0] if default else arg for default, arg in zip(defaults, args, strict=True)]
        return function, args

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one node: those of torch.nn, and those that failed before."""
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, as a proxy if it is a tensor."""
        self._cache = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a node; the proxy of a tensor of the model knows its shape."""
        if kind == "get_attr" and (tensor := self._tensors.get(target)) is not None:
            kwargs["proxy_factory_fn"] = lambda node: _ShapedProxy(node, self, tensor)
        return super().create_proxy(kind, target, *args, **kwargs)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into a module, or make it one node if that fails."""
        mark, stack = next(iter(reversed(self.graph.nodes)), None), dict(self.module_stack)
        while True:
            try:
                return super().call_module(m, forward, args, kwargs)
            except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
                self._take_back(mark, stack)
                path = self.path_of_module(m)
                if not self._wrap_culprit(error, m):
                    self.opaque[path] = _reason(error)
                    return self.create_proxy("call_module", path, args, kwargs)

    def _take_back(self, mark: Node | None, stack: dict[str, Any]) -> None:
        """Erase what was traced after ``mark``."""
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        for name, proxy in list(self._cache.items()):
            if proxy.node._erased:
                del self._cache[name]
        self.module_stack.clear()
        self.module_stack.update(stack)

    def _wrap_culprit(self, error: BaseException, module: Any) -> bool:
        """Make the innermost helper function that failed one node from now on; return whether there is one."""
        found = _culprit(error, module)
        if found is None:
            return False
        namespace, name, function = found
        self.functions[f"{function.__module__}.{function.__qualname__}"] = _reason(error)
        self._patched.append((namespace, name, function))

        @wraps(function)
        def one_node(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, Proxy) for value in pytree.tree_leaves((args, kwargs))):
                return self.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        namespace[name] = one_node
        return True


class _ShapedProxy(Proxy):
    """Stands for a tensor of the model. Many a forward looks at the shapes of those, which do not change.

    torch.fx has the same for parameters alone (``param_shapes_constant``).
    """

    def __init__(self, node: Node, tracer: Tracer, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self._tensor = tensor

    @property
    def shape(self) -> torch.Size:
        return self._tensor.shape

    @property
    def ndim(self) -> int:
        return self._tensor.ndim

    def size(self, dim: int | None = None) -> Any:
        return self._tensor.shape if dim is None else self._tensor.shape[dim]

    def dim(self) -> int:
        return self._tensor.dim()

    def numel(self) -> int:
        return self._tensor.numel()

    def __len__(self) -> int:
        return len(self._tensor)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("data", "grad"):
            # the proxy would take it and forget it, and the graph would compute something else than the model
            raise TypeError(f"a forward that assigns {name!r} of a parameter or buffer has no graph")
        super().__setattr__(name, value)


def default_of(node: Node) -> tuple[Any, ...]:
    """Return the value of a placeholder in a call that leaves it out, in a tuple that is empty if no call may."""
    name = str(node.target)
    if name.startswith("*"):
        return ({} if name.startswith("**") else (),)
    return tuple(node.args)


def decides_by_optional_arguments(root: nn.Module, graph: Graph) -> bool:
    """Return whether a graph is not what a call does that leaves out all optional arguments.

    For tracing, an argument is never None. A forward that asks ``if mask is None`` has two graphs, and one of them
    alone, with no word of the other, would be wrong for half of the calls.

    Args:
        root: the model.
        graph: its graph, with a placeholder for every argument.
    """
    defaults = {node: default for node in graph.nodes if node.op == "placeholder" and (default := default_of(node))}
    if not defaults:
        return False
    try:
        other = PatientTracer(with_defaults=True).trace(root)
    except Exception:  # noqa: BLE001 - tracing runs the model's own code
        return True
    twins: dict[Node, Any] = {}

    def twin(node: Node) -> Any:
        return defaults[node][0] if node in defaults else twins[node]

    for mine, its in zip(graph.nodes, other.nodes, strict=False):
        args, kwargs = map_arg(mine.args, twin), map_arg(mine.kwargs, twin)
        if mine.op != its.op or not (mine.op == "placeholder" or _equal((args, kwargs), (its.args, its.kwargs))):
            return True
        if mine.target != its.target and not _same_constant(root, mine, its):
            return True
        twins[mine] = its
    return len(graph.nodes) != len(other.nodes)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # noqa: BLE001 - arguments may be of any class
        return False


def _same_constant(root: nn.Module, a: Node, b: Node) -> bool:
    """Whether two nodes fetch tensors that tracing met, which get a new name each time."""
    if not (str(a.target).startswith(CONSTANT) and str(b.target).startswith(CONSTANT)):
        return False
    return torch.equal(getattr(root, str(a.target)), getattr(root, str(b.target)))


def _culprit(error: BaseException, module: Any) -> tuple[dict[str, Any], str, FunctionType] | None:
    """Return the innermost function of user code on the way to an error, and the namespace through which it was called.

    Only a function that its caller found as a global is of use: it can be replaced there, and be imported by name.
    """
    frames: list[FrameType] = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    start = max((i for i, frame in enumerate(frames) if frame.f_locals.get("self") is module), default=0)
    for caller, frame in reversed(list(zip(frames[start:], frames[start + 1 :], strict=False))):
        function = caller.f_globals.get(frame.f_code.co_name)
        if not isinstance(function, FunctionType) or function.__code__ is not frame.f_code:
            continue
        if function.__module__.partition(".")[0] not in _TRACED_PACKAGES and "<locals>" not in function.__qualname__:
            return caller.f_globals, frame.f_code.co_name, function
    return None


@contextmanager
def _untouched(root: Any) -> Iterator[None]:
    """Restore the plain attributes of all modules: a forward that stores its input would keep a proxy."""
    before = [(module, dict(vars(module))) for module in root.modules()] if isinstance(root, nn.Module) else []
    try:
        yield
    finally:
        for module, attributes in before:
            if vars(module) != attributes if len(vars(module)) != len(attributes) else _differs(module, attributes):
                constants = {k: v for k, v in vars(module).items() if k.startswith(CONSTANT)}
                module.__dict__.clear()
                module.__dict__.update(attributes)
                module.__dict__.update(constants if module is root else {})


def _differs(module: nn.Module, attributes: dict[str, Any]) -> bool:
    return any(attributes[name] is not value for name, value in vars(module).items() if name in attributes)


def _reason(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
