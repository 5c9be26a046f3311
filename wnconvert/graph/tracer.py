"""Run a forward on proxies, and see whatever its graph would lose.

`torch.fx.symbolic_trace` believes what it sees. Here a forward runs on a stand-in of the model
(`wnconvert.graph.shadow`) with proxies that know when they are asked for more than they stand for
(`wnconvert.graph.proxies`), under a mode that sees every torch function, and each call is compared with the gradient
and autocast modes that hold outside. What a graph cannot show is a `Hazard`: the smallest module in which it occurs
becomes one `call_module` node, which loses nothing.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.proxy import Scope, TraceError, TracerBase
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils._python_dispatch import TorchDispatchMode

from wnconvert.graph.circumstances import Circumstances, Generators, ambient
from wnconvert.graph.entries import Entries, has_attribute
from wnconvert.graph.hazards import Hazard, HazardError
from wnconvert.graph.helpers import Helper, helper_that_failed
from wnconvert.graph.proxies import SCALAR, TENSOR, UNKNOWN, Value, is_value, kind_of, leaves_in, value_of
from wnconvert.graph.shadow import fingerprints, is_leaf, reason_for_one_node, tensor_attributes
from wnconvert.graph.writes import may_alias, may_be, written_by

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


class Again(BaseException):
    """Tracing learned something that changes how it is to be done; no forward may catch it."""


class Observer(TracerBase):
    """Runs the forward of a stand-in and writes its graph.

    Args:
        opaque: dotted names of modules that are to be one node, with the reason.
        observed: the hazards to look for.
        helpers: functions a call of which is to be one node.
        finding: go on where a graph would be unsound: it is only to show which tensors enter which ops.
        leaves: let every module but the root be one node.
        whose_draws: see in every trace which modules use random generators that no node stands for. To read their
            states takes longer than most forwards, so by default that is seen in the first trace of each mode, and in
            any other whether some module does.

    Attributes:
        opaque: as given, and what else became one node.
        blamed: modules that must be one node, found too late for the trace at hand, with the reason.
        frame: the last run of the root's forward.
        copies: of containers in the namespaces of the model's code, by the id of the container.
        remarks: why parameters cannot become weights that are composed when they are read, by dotted name.
        asked_mode: whether any forward read ``self.training``.
        whose_draws: as given, or whether that is to be seen in another trace.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        opaque: Mapping[str, str],
        observed: frozenset[Hazard],
        helpers: Iterable[Helper] = (),
        finding: bool = False,
        leaves: bool = False,
        whose_draws: bool = False,
    ) -> None:
        self.whose_draws = whose_draws
        self.opaque, self.blamed = dict(opaque), dict[str, str]()
        self.helpers = set(helpers)
        self.copies: dict[int, Any] = {}
        self.remarks: dict[str, str] = {}
        self.asked_mode = False
        self.frame = Frame("", {})
        self._observed = frozenset[Hazard]() if finding else observed
        self._finding, self._leaves = finding, leaves
        self._steadfast = self._handling = False
        self._frames = [self.frame]
        self._circumstances = Circumstances()
        self._contents: Mapping[int, Any] | None = None
        #: whether generators are watched module by module, and the modes in which that showed nothing
        self._by_module, self._calm = False, set[bool]()

    def watch(self, root: nn.Module) -> None:
        """Take a stand-in for what is to be traced."""
        self._root: Any = root
        self._modules = dict(root.named_modules())
        self._paths = {id(module): path for path, module in self._modules.items()}
        attributes, self._held = tensor_attributes(self._modules)
        self._fqns = {id(tensor): fqn for fqn, tensor in attributes.items()}
        entries = Entries(root)
        self._tensors = dict(entries)
        for fqn, tensor in reversed(list(entries)):
            self._fqns[id(tensor)] = fqn

    def trace(
        self, circumstances: Circumstances, given: Mapping[str, Any] | None = None, steadfast: bool = False
    ) -> Graph:
        """Run the root's forward once and return its graph.

        Args:
            circumstances: the modes to run it in.
            given: values of arguments, by name; each other one is a placeholder.
            steadfast: do not let more modules be one node; raise what goes wrong.

        Raises:
            HazardError: a hazard in the root's own forward.
            Exception: whatever the forward raises on proxies.
        """
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
        self._circumstances, self._steadfast = circumstances, steadfast
        self._ambient: tuple[Any, ...] | None = None
        before = self._begin_watching_contents()
        generators = None if self._finding else Generators()
        self._by_module = generators is not None and (self.whose_draws or circumstances.other_mode not in self._calm)
        forward = self._root.forward
        with circumstances.hold(), _Functions(self):
            args, kwargs = self._arguments(forward, given or {})
            self._ambient = ambient()
            try:
                result = forward(*args, **kwargs)
            except Exception as error:
                self._blame_helper(error)
                raise
            self._forbid_returned_constants(result)
            self._ambient = ambient()
            annotation = getattr(inspect.unwrap(forward), "__annotations__", {}).get("return")
            self.create_node("output", "output", (self.create_arg(result),), {}, type_expr=annotation)
        self._blame_changes(before)
        if generators is not None and generators.restore() and Hazard.RANDOM in self._observed:
            if not self._by_module:
                self.whose_draws = True
                raise Again
            self.frame.hazards.append(HazardError(Hazard.RANDOM, "Python's, NumPy's, or a seed"))
        if self.frame.hazards:
            raise self.frame.hazards[0]
        self._calm.add(circumstances.other_mode)
        return self.graph

    # ---- what the modules of the stand-in ask

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace into a module, or make its call one node."""
        path = self._paths.get(id(module))
        if path is None:
            raise self.refuse(Hazard.STATE, "a module that was made on the way")
        if is_leaf(module.shadowed) or self._leaves or path in self.opaque:
            return self._one_node(module, path, args, kwargs)
        if module.shadowed.__call__ is not nn.Module.__call__:
            # one node would do, but torch.fx runs that method once more when it loads a pickled graph
            self.observe(Hazard.CALL, f"{path!r} has a __call__ of its own")
        hazard = reason_for_one_node(module, module.shadowed)
        if hazard in self._observed:
            self.opaque[path] = hazard.value
            return self._one_node(module, path, args, kwargs)
        mark, stack, frame = (
            next(iter(reversed(self.graph.nodes)), None),
            dict(self.module_stack),
            Frame(path, self.frame.constants),
        )
        self._frames[-1].items.append(frame)
        self._frames.append(frame)
        generators = Generators() if self._by_module else None
        self.module_stack[path] = (path, module.shadowed)
        try:
            result = module.forward(*args, **kwargs)
            error: Exception | None = None
        except Exception as raised:  # noqa: BLE001 - tracing runs the model's own code
            error = raised
        finally:
            self._frames.pop()
            self.module_stack = OrderedDict(stack)
        if generators is not None and generators.restore() and Hazard.RANDOM in self._observed:
            frame.hazards.append(HazardError(Hazard.RANDOM, "Python's, NumPy's, or a seed"))
        if error is None and not frame.hazards:
            return result
        error = frame.hazards[0] if frame.hazards else error
        assert error is not None
        if self._steadfast:
            raise error
        self._take_back(mark)
        self._frames[-1].items.remove(frame)
        self.opaque[path] = reason_of(error)
        return self._one_node(module, path, args, kwargs)

    def fetch(self, tensor: Tensor) -> Any:
        """Return the proxy of a tensor that the model holds, and any other tensor as it is."""
        fqn = self._fqns.get(id(tensor))
        if fqn is None:
            return tensor
        if fqn not in self._cache:
            self._cache[fqn] = value_of(self.create_node("get_attr", fqn, (), {}), self, TENSOR, tensor)
        return self._cache[fqn]

    def mode_of(self, training: bool) -> bool:
        """Return whether a module is in training mode, in the circumstances of this trace."""
        self.asked_mode = True
        return training != self._circumstances.other_mode

    def takes(self, module: nn.Module, name: str, value: Any) -> bool:
        """Return whether a module of the stand-in is to take an attribute that a forward sets."""
        if is_value(value):
            # `self.total += x` puts back the very tensor that was changed
            held = module._parameters.get(name, module._buffers.get(name))
            fqn = self._fqns.get(id(held))
            if fqn is not None and any(
                node.op == "get_attr" and node.target == fqn for node in self._changed_by(value.node)
            ):
                return False
        if isinstance(module._parameters.get(name), Tensor):
            self.remark(module._parameters[name], "a forward assigns it")  # type: ignore[arg-type]
        self.observe(Hazard.STATE, f"{name!r} is set")
        return True

    def remark(self, tensor: Tensor, reason: str) -> None:
        """Note why a parameter cannot become a weight that is composed when it is read."""
        fqn = self._fqns.get(id(tensor))
        if fqn is not None:
            self.remarks.setdefault(fqn, reason)

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

    def call_helper(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write the call of a helper function."""
        return self.create_proxy("call_function", function, args, kwargs)

    def _blame_helper(self, error: BaseException | None) -> None:
        """See whether a function that a module called is to blame, and trace again with that as one node."""
        helper = None if error is None else helper_that_failed(error)
        if helper is not None and helper not in self.helpers and not self._steadfast:
            self.helpers.add(helper)
            raise Again

    def _begin_watching_contents(self) -> Mapping[int, Any]:
        """Return what all modules hold now, which a trace that came to its end has looked at."""
        if Hazard.STATE not in self._observed:
            return {}
        contents, self._contents = self._contents, None
        return fingerprints(self._root) if contents is None else contents

    def _blame_changes(self, before: Mapping[int, Any]) -> None:
        """See whether a list, a dict or an object that a module holds was changed; nobody knows in whose forward."""
        if Hazard.STATE not in self._observed:
            return
        after = self._contents = fingerprints(self._root)
        for key, path in self._paths.items():
            if before.get(key) == after.get(key):
                continue
            while path and path in self.opaque:
                path = path.rpartition(".")[0]
            if not path:
                self.frame.hazards.append(HazardError(Hazard.STATE, "a container was changed"))
            self.blamed[path] = f"{Hazard.STATE.value} (a container was changed)"

    # ---- writing nodes

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
        if in_force is not None and ambient(self._handling) != in_force:
            self.observe(Hazard.CONTEXT)
        node = super().create_node(kind, target, *args, **kwargs)
        self._frames[-1].items.append(node)
        changed = self._changed_by(node) if kind.startswith("call_") else set()
        for base in changed:
            if base.op == "get_attr" and isinstance(held := self._tensors.get(str(base.target)), nn.Parameter):
                self.remark(held, "a forward changes it in place")
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
        if isinstance(function, torch._C.ScriptMethod):
            raise self.refuse(Hazard.CALL, "compiled code")
        if not is_tensor_method_or_property(function) and getattr(Tensor, name, None) is not function:
            return self.create_proxy("call_function", function, args, kwargs, name=self.graph._target_to_str(name))
        if not is_value(args[0]):
            return self.create_proxy("call_method", name, args, kwargs)
        if name in Value.__dict__:
            return getattr(args[0], name)(*args[1:], **kwargs)
        return self.call_method(name, args[0], args[1:], kwargs)

    def call_method(self, name: str, value: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write the call of a method of a tensor."""
        if value.tensor is not None and name in _OF_PARAMETERS:
            self.remark(value.tensor, f"a forward calls its {name!r}, which a composed weight has in another way")
        return self.create_proxy("call_method", name, (value, *self._with_proxies(args)), self._with_proxies(kwargs))

    def _attribute(self, value: Value, name: str) -> Any:
        if value.tensor is not None and name in _OF_PARAMETERS:
            self.remark(value.tensor, f"a forward asks for its {name!r}, which a composed weight has in another way")
        return value._attribute(name)

    def _arguments(self, forward: Any, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Write the placeholders, and return what the forward is called with.

        What a call may put into ``*args`` and ``**kwargs`` nobody knows: the graph takes none.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in inspect.signature(forward).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                if _reads(forward, parameter.name):
                    self.observe(Hazard.NONE, f"what {parameter.name!r} holds")
                continue
            default = () if parameter.default is parameter.empty else (parameter.default,)
            annotation = None if parameter.annotation is parameter.empty else parameter.annotation
            value = self.create_proxy("placeholder", parameter.name, default, {}, type_expr=annotation)
            if _is_tensor(annotation):
                value = value_of(value.node, self, TENSOR)
            elif annotation in (bool, "bool") and isinstance(parameter.default, bool):
                value = value_of(value.node, self, SCALAR)  # both values are tried afterwards
            value = given.get(parameter.name, value)
            if parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return args, kwargs

    def _one_node(self, module: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and (is_value(tensor) or id(tensor) not in self._fqns):
                raise self.refuse(Hazard.STATE, f"{name!r} was put in the place of another tensor")
        if not _gives_a_tensor(module):
            return self.create_proxy("call_module", path, args, kwargs)
        if args and args[0] is None and module.shadowed is not nn.Identity:
            raise TypeError(f"{path!r} takes no None")  # as it would; so this is no call that the model takes
        return value_of(self.create_proxy("call_module", path, args, kwargs).node, self, TENSOR)

    def _with_proxies(self, x: Any) -> Any:
        """Replace the model's own tensors, which a forward may get without asking a module for them."""
        if is_value(x):
            return x
        if isinstance(x, Tensor):
            if id(x) not in self._held:
                self.remark(x, "a forward takes it from a list of parameters, where its parts would stand")
            return self.fetch(x)
        if type(x) in (tuple, list):
            return type(x)([self._with_proxies(item) for item in x])
        if type(x) is dict:
            return {key: self._with_proxies(item) for key, item in x.items()}
        return x

    def _compute(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if function in _SETTERS:
            return function(*args, **kwargs)
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
        for argument, value in zip(function._schema.arguments, args, strict=False):
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
        module = self._modules.get(str(node.target)) if node.op == "call_module" else None
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
        self._cache = {name: proxy for name, proxy in self._cache.items() if not proxy.node._erased}
        self._constants = {node for node in self._constants if not node._erased}
        self._early = {node for node in self._early if not node._erased}


class _Functions(TorchFunctionMode):
    """Hands every torch function that a forward calls to the observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        observer = self._observer
        observer._handling = True
        try:
            return observer.call_torch(func, args, kwargs or {})
        finally:
            observer._handling = False


class _Making(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows the observer every ATen op that a forward runs on what it made itself."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._observer = observer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._observer.made(func, args, None)  # before a number is drawn or a tensor written to
        result = func(*args, **(kwargs or {}))
        self._observer.made(func, args, result)
        return result


#: containers that torch.fx writes as what they are
_CONTAINERS = frozenset((dict, list, tuple, torch.Size, immutable_dict, immutable_list))

#: what a parameter has, and a tensor that is computed has not or has in another way
_OF_PARAMETERS = frozenset(("is_leaf", "grad", "grad_fn", "register_hook", "requires_grad_", "retain_grad"))

#: attributes of a tensor that say nothing of its value and that no conversion of the model changes
_FACTS = frozenset(("shape", "ndim", "layout", "is_sparse", "is_quantized", "is_meta"))

#: what changes a mode of the thread; `ambient` shows it
_SETTERS = frozenset((torch._C._set_grad_enabled,))


def _is_tensor(annotation: Any) -> bool:
    """Whether an annotation says that an argument is a tensor; whether it may be None is tried out."""
    if isinstance(annotation, str):
        return re.fullmatch(r"(Optional\[)?(torch\.)?Tensor(\])?( \| None)?", annotation.strip()) is not None
    return annotation is Tensor or set(get_args(annotation)) == {Tensor, type(None)}


def _reads(forward: Any, name: str) -> bool:
    """Whether a function reads a variable, be it only to pass it on."""
    instructions = dis.get_instructions(inspect.unwrap(forward).__code__)
    return any(
        i.opname.startswith("LOAD") and name in (i.argval if isinstance(i.argval, tuple) else (i.argval,))
        for i in instructions
    )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _gives_a_tensor(module: Any) -> bool:
    """Whether a module of torch's own returns one tensor, which is all that is known of modules that are one node."""
    cls = module.shadowed
    if not cls.__module__.startswith("torch.nn.modules.") or module.__dict__.get("return_indices"):
        return False
    return not issubclass(cls, (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention, nn.AdaptiveLogSoftmaxWithLoss))


def reason_of(error: BaseException) -> str:
    """Return an exception as a reason in a report."""
    if isinstance(error, HazardError):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
