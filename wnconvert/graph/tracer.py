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

from torch import nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.utils import _pytree as pytree

#: packages whose functions torch.fx traces itself
_TRACED_PACKAGES = ("torch", "builtins", "_operator", "wnconvert")


class PatientTracer(Tracer):
    """Traces a model; afterwards `opaque` and `functions` say what it could not look into, and why.

    Attributes:
        opaque: dotted names of modules that are one node, with the reason.
        functions: qualified names of helper functions that are one node, with the reason.
    """

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._cache: dict[str, Proxy] = {}
        self._patched: list[tuple[dict[str, Any], str, Any]] = []

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> Graph:
        """Trace ``root``; its modules and the functions it calls are afterwards as they were."""
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

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one node: those of torch.nn, and those that failed before."""
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, as a proxy if it is a tensor."""
        self._cache = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

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
                constants = {k: v for k, v in vars(module).items() if k.startswith("_tensor_constant")}
                module.__dict__.clear()
                module.__dict__.update(attributes)
                module.__dict__.update(constants if module is root else {})


def _differs(module: nn.Module, attributes: dict[str, Any]) -> bool:
    return any(attributes[name] is not value for name, value in vars(module).items() if name in attributes)


def _reason(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
