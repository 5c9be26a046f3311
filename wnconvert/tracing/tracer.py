"""Run a forward on proxies, and see whatever its graph would lose.

`torch.fx.symbolic_trace` believes what it sees. Here a forward runs on a stand-in of the model
(`wnconvert.tracing.shadow`) with proxies that know when they are asked for more than they stand for
(`wnconvert.tracing.proxies`), under a mode that sees every torch function, and each call is compared with the gradient
and autocast modes that hold outside. What a graph cannot show is a `Hazard`: the smallest module in which it occurs
becomes one `call_module` node, which loses nothing.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from torch import Tensor, nn
from torch.fx import Graph
from torch.overrides import TorchFunctionMode

from wnconvert.errors import described
from wnconvert.graph.entries import Entries, own_tensors
from wnconvert.reasons import Why
from wnconvert.torch_private import buffers_of, parameters_of
from wnconvert.tracing.circumstances import Circumstances, Generators, ambient
from wnconvert.tracing.hazards import Hazard, HazardError
from wnconvert.tracing.helpers import Helper, helper_that_failed
from wnconvert.tracing.proxies import SCALAR, TENSOR, is_value, value_of
from wnconvert.tracing.shadow import Overseer, fingerprints, is_leaf, reason_for_one_node, tensor_attributes
from wnconvert.tracing.writer import Frame


class Again(BaseException):
    """Tracing learned something that changes how it is to be done; no forward may catch it."""


class Observer(Overseer):
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
        copies: of containers in the namespaces of the model's code, by the id of the container.
        asked_mode: whether any forward read ``self.training``.
        whose_draws: as given, or whether that is to be seen in another trace.
    """

    def __init__(
        self,
        opaque: Mapping[str, str],
        observed: frozenset[Hazard],
        helpers: Iterable[Helper] = (),
        finding: bool = False,
        leaves: bool = False,
        whose_draws: bool = False,
    ) -> None:
        super().__init__(frozenset[Hazard]() if finding else observed, finding)
        self.whose_draws = whose_draws
        self.opaque, self.blamed = dict(opaque), dict[str, str]()
        self.helpers = set(helpers)
        self.copies: dict[int, Any] = {}
        self.asked_mode = False
        self._leaves, self._steadfast = leaves, False
        self._circumstances = Circumstances()
        self._contents: Mapping[int, Any] | None = None
        #: whether generators are watched module by module, and the modes in which that showed nothing
        self._by_module, self._calm = False, set[bool]()

    def watch(self, root: nn.Module) -> None:
        """Take a stand-in for what is to be traced."""
        self._root: Any = root
        self._stand_ins = dict(root.named_modules())
        self._paths = {id(module): path for path, module in self._stand_ins.items()}
        attributes, self._held = tensor_attributes(self._stand_ins)
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
        self.begin()
        self._circumstances, self._steadfast = circumstances, steadfast
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
        mark, stack = next(iter(reversed(self.graph.nodes)), None), dict(self.module_stack)
        frame = Frame(path, self.frame.constants)
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

    def mode_of(self, training: bool) -> bool:
        """Return whether a module is in training mode, in the circumstances of this trace."""
        self.asked_mode = True
        return training != self._circumstances.other_mode

    def takes(self, module: nn.Module, name: str, value: Any) -> bool:
        """Return whether a module of the stand-in is to take an attribute that a forward sets."""
        if is_value(value):
            # `self.total += x` puts back the very tensor that was changed
            held = parameters_of(module).get(name, buffers_of(module).get(name))
            fqn = self._fqns.get(id(held))
            if fqn is not None and any(
                node.op == "get_attr" and node.target == fqn for node in self._changed_by(value.node)
            ):
                return False
        parameter = parameters_of(module).get(name)
        if isinstance(parameter, Tensor):
            self.remark(parameter, Why.FORWARD_LOOKS(what="it"))
        self.observe(Hazard.STATE, f"{name!r} is set")
        return True

    # ---- what is to be one node

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
        for name, tensor in own_tensors(module):
            if is_value(tensor) or id(tensor) not in self._fqns:
                raise self.refuse(Hazard.STATE, f"{name!r} was put in the place of another tensor")
        if not _gives_a_tensor(module):
            return self.create_proxy("call_module", path, args, kwargs)
        if args and args[0] is None and module.shadowed is not nn.Identity:
            raise TypeError(f"{path!r} takes no None")  # as it would; so this is no call that the model takes
        return value_of(self.create_proxy("call_module", path, args, kwargs).node, self, TENSOR)


class _Functions(TorchFunctionMode):
    """Hands every torch function that a forward calls to the observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        observer = self._observer
        observer.handling = True
        try:
            return observer.call_torch(func, args, kwargs or {})
        finally:
            observer.handling = False


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


def _gives_a_tensor(module: Any) -> bool:
    """Whether a module of torch's own returns one tensor, which is all that is known of modules that are one node."""
    cls = module.shadowed
    if not cls.__module__.startswith("torch.nn.modules.") or module.__dict__.get("return_indices"):
        return False
    return not issubclass(cls, (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention, nn.AdaptiveLogSoftmaxWithLoss))


def reason_of(error: BaseException) -> str:
    """Return an exception as a reason in a report."""
    return str(error) if isinstance(error, HazardError) else described(error)
