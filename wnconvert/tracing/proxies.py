"""What flows through a forward while it is traced: it stands for a value, and notices what asks for more than that."""

from __future__ import annotations

import dis
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.graph import magic_methods, reflectable_magic_methods
from torch.fx.proxy import TracerBase

from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import IS_PARAMETER, PERHAPS_NONE, OpOverload, tensor_without_memory
from wnconvert.tracing.hazards import Hazard

#: what a proxy stands for: a tensor, a tuple or list of tensors, a number or another immutable value, or who knows
TENSOR, TENSORS, SCALAR, UNKNOWN = "tensor", "tensors", "scalar", "unknown"


class Tracer(TracerBase):
    """What values ask of whoever traces; `wnconvert.tracing.writer` answers."""

    observe: Callable[..., None]
    refuse: Callable[[Hazard, str], Exception]
    undecidable: Callable[[str], Exception]
    remark: Callable[[Tensor, Reason], None]
    call_torch: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
    call_method: Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]


class Value:
    """Stands for a value; asked what it is, it tells the truth or raises.

    It is no `torch.fx.Proxy`: that is callable and has every attribute, as no tensor is and has.

    Args:
        node: the node that yields the value.
        tracer: who is tracing.
        kind: what is known of the value.
        tensor: the tensor of the model itself, if the value is one: its shape will not change.
    """

    node: Node
    tracer: Tracer
    kind: str
    tensor: Tensor | None

    def __init__(self, node: Node, tracer: Tracer, kind: str, tensor: Tensor | None = None) -> None:
        self.__dict__.update(node=node, tracer=tracer, kind=kind, tensor=tensor)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # `isinstance` asks here once it has seen that the object itself is none
        if self.kind == UNKNOWN:
            self.tracer.observe(Hazard.TYPE, "isinstance")
        return type(self)

    def type_told(self) -> type:
        """Return what `type` is to give for the value."""
        if self.kind == UNKNOWN:
            self.tracer.observe(Hazard.TYPE, "type")
        return type(self)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torch takes what has this for a tensor; all functions go through the tracer's mode before they get here
        first = next(filter(is_value, leaves_in((args, kwargs or {}))))
        return first.tracer.call_torch(function, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Value({self.node.name})"

    def __str__(self) -> str:
        raise self.tracer.undecidable("as a text")

    def __format__(self, spec: str) -> str:
        if spec:
            raise self.tracer.undecidable("as a text")
        return repr(self)  # such texts tell of errors, and forwards make them before they know of any

    def __hash__(self) -> int:
        if self.kind != TENSOR:
            raise self.tracer.undecidable("its hash")
        return id(self)  # as of a tensor

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            if self.kind == TENSOR or name.startswith("__"):
                raise AttributeError(f"'Tensor' object has no attribute {name!r}")
            if self.kind == UNKNOWN:
                self.tracer.observe(Hazard.TYPE, f"the attribute {name!r}")
        return attribute_of(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == IS_PARAMETER:  # what `nn.Parameter(x)` sets
            self.tracer.observe(Hazard.STATE, "a parameter is made")
            self.__dict__["made_parameter"] = True
            return
        if self.tensor is not None:
            self.tracer.remark(self.tensor, Why.FORWARD_LOOKS(what=f"its {name!r}"))
        # a proxy would take it and forget it
        self.tracer.observe(Hazard.WRITE, f"the attribute {name!r} of a tensor")
        raise TypeError(f"a forward that assigns the attribute {name!r} of a tensor has no graph")

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.observe(Hazard.WRITE, "an assignment of items")
        self.tracer.create_proxy("call_method", "__setitem__", (self, index, value), {})

    __getitem__: Any  # and the other operators, which are set below

    def __iter__(self) -> Iterator[Any]:
        """Go over a tensor of known length, or give as many values as are asked for: ``a, b = x``."""
        if self.tensor is not None:
            return (self[index] for index in range(len(self)))
        frame: Any = inspect.currentframe()
        instruction = next(i for i in dis.get_instructions(frame.f_back.f_code) if i.offset == frame.f_back.f_lasti)
        if instruction.opname != "UNPACK_SEQUENCE":
            raise self.tracer.undecidable("a loop")
        return (self[index] for index in range(instruction.argval))

    def __bool__(self) -> bool:
        raise self.tracer.undecidable("a condition")

    def __len__(self) -> int:
        if self.tensor is not None:
            return self._fact("__len__")
        raise self.tracer.undecidable("its length")

    def __int__(self) -> int:
        raise self.tracer.undecidable("as a whole number")

    def __float__(self) -> float:
        raise self.tracer.undecidable("as a number")

    def __contains__(self, item: Any) -> bool:
        raise self.tracer.undecidable("what it contains")

    # the shape of a tensor of the model, as a plain value: many a forward looks at it

    @property
    def shape(self) -> Any:
        """As of a tensor."""
        return attribute_of(self, "shape") if self.tensor is None else self.tensor.shape

    @property
    def ndim(self) -> Any:
        """As of a tensor."""
        return attribute_of(self, "ndim") if self.tensor is None else self.tensor.ndim

    def size(self, dim: int | None = None) -> Any:
        """As of a tensor."""
        if self.tensor is None:
            return self._call("size", *(() if dim is None else (dim,)))
        return self.tensor.shape if dim is None else self.tensor.shape[dim]

    def dim(self) -> Any:
        """As of a tensor."""
        return self._call("dim") if self.tensor is None else self._fact("dim")

    def numel(self) -> Any:
        """As of a tensor."""
        return self._call("numel") if self.tensor is None else self._fact("numel")

    def is_floating_point(self) -> Any:
        """As of a tensor."""
        return self._call("is_floating_point") if self.tensor is None else self._fact("is_floating_point")

    def _fact(self, method: str) -> Any:
        # the tracer would take it for a tensor that a forward got from elsewhere
        with torch.DisableTorchFunction():
            return getattr(self.tensor, method)()

    def _call(self, method: str, *args: Any) -> Any:
        return self.tracer.create_proxy("call_method", method, (self, *args), {})


class TensorValue(Value, Tensor):  # type: ignore[misc, override]
    """Stands for a tensor, and is one without memory: `isinstance` asks, and C code believes what it is told."""

    def __new__(cls, *args: Any) -> TensorValue:
        """Make a tensor that nothing can be computed with."""
        return tensor_without_memory(cls, (0,))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        first = next(filter(is_value, leaves_in((args, kwargs or {}))))
        raise first.tracer.refuse(Hazard.CALL, f"{function} is called past torch's functions")

    def type_told(self) -> type:
        """Return what `type` is to give for the tensor."""
        return nn.Parameter if _is_parameter(self) else Tensor


def _is_parameter(value: TensorValue) -> bool:
    if not isinstance(value.tensor, nn.Parameter):
        return "made_parameter" in value.__dict__
    value.tracer.remark(value.tensor, Why.FORWARD_LOOKS())
    return True


# what `isinstance(x, nn.Parameter)` asks a tensor
setattr(TensorValue, IS_PARAMETER, property(_is_parameter))


def value_of(node: Node, tracer: Tracer, kind: str, tensor: Tensor | None = None) -> Value:
    """Return what stands for the value of a node."""
    return (TensorValue if kind == TENSOR else Value)(node, tracer, kind, tensor)


def attribute_of(value: Value, name: str) -> Any:
    """Return what stands for an attribute of a value, or for its method."""
    if name in _PERHAPS_NONE:
        value.tracer.observe(Hazard.TYPE, f"{name!r}, which may be None")
    return _Attribute(value, name, _kind_of_attribute(value.kind, name))


class _Attribute(Value):
    """An attribute of a value, which becomes a node unless it is called as a method."""

    root: Value
    attr: str

    def __init__(self, root: Value, name: str, kind: str) -> None:
        self.__dict__.update(root=root, attr=name, tracer=root.tracer, kind=kind, tensor=None, _node=None)

    @property
    def node(self) -> Node:  # type: ignore[override]
        if self._node is None:
            proxy = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {})
            self.__dict__["_node"] = proxy.node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


_TENSOR_ATTRIBUTES = frozenset(("T", "mT", "H", "mH", "data", "grad", "real", "imag"))
#: a proxy is not None, whatever it stands for
_PERHAPS_NONE = frozenset(("grad", "grad_fn", "name", *PERHAPS_NONE))


def _kind_of_attribute(kind: str | None, name: str) -> str:
    if kind != TENSOR and name in ("shape", "ndim"):
        return SCALAR  # nothing but tensors and arrays has it
    if kind != TENSOR:
        return UNKNOWN
    return TENSOR if name in _TENSOR_ATTRIBUTES else SCALAR


def _operator(name: str) -> Any:
    def operate(self: Value, *others: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, *others), {})

    return operate


def _reflected(name: str) -> Any:
    def operate(self: Value, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (other, self), {})

    return operate


def _in_place(method: str) -> Any:
    def operate(self: Value, other: Any) -> Any:
        if self.kind == SCALAR:
            return NotImplemented  # numbers are not changed in place: Python takes the operator itself then
        return self.tracer.create_proxy("call_method", method, (self, other), {})

    return operate


def _calling(name: str) -> Any:
    def call(self: Value, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.call_method(name, self, args, kwargs)

    return call


# C code would look at the arguments before it asks anybody, and take a value that stands for a number for none
for _name in dir(Tensor):
    if not _name.startswith("_") and _name not in Value.__dict__ and callable(getattr(Tensor, _name)):
        setattr(TensorValue, _name, _calling(_name))

for _name in (*magic_methods, "abs"):
    setattr(Value, f"__{_name.strip('_')}__", _operator(_name))
for _name in reflectable_magic_methods:
    setattr(Value, f"__r{_name.strip('_')}__", _reflected(_name))

# `a += b` on tensors is `a.add_(b)`. torch.fx would take `a + b`, which leaves every other name of `a` as it was.
for _name, _method in (
    *(("iadd", "add_"), ("isub", "sub_"), ("imul", "mul_"), ("itruediv", "div_"), ("ifloordiv", "floor_divide_")),
    *(("imod", "remainder_"), ("ipow", "pow_"), ("iand", "bitwise_and_"), ("ior", "bitwise_or_")),
    *(("ixor", "bitwise_xor_"), ("ilshift", "bitwise_left_shift_"), ("irshift", "bitwise_right_shift_")),
):
    setattr(Value, f"__{_name}__", _in_place(_method))


def kind_of(op: str, target: Any, args: tuple[Any, ...]) -> str:
    """Return what a call yields, as far as its name and the kind of its first argument tell.

    Args:
        op: ``"call_function"`` or ``"call_method"``.
        target: the function, or the name of the method.
        args: the arguments, with a `Value` for each traced one.
    """
    first = args[0].kind if args and is_value(args[0]) else None
    if op == "call_method":
        if target in _MANY or target in _SOMETIMES:
            return TENSORS if target in _MANY else UNKNOWN
        if target in _SCALARS:
            return SCALAR
        return TENSOR if first == TENSOR else UNKNOWN
    name = getattr(target, "__name__", "")
    module = getattr(target, "__module__", None) or ""
    if target is getattr:
        return _kind_of_attribute(first, args[1])
    if module == "_operator":
        return _of_operator(name, args, first)
    if module == "math":
        return SCALAR
    if module.partition(".")[0] == "torch" or isinstance(target, OpOverload) or hasattr(torch, name):
        if name in _MANY or name in _SOMETIMES:
            return TENSORS if name in _MANY else UNKNOWN
        return SCALAR if name in _SCALARS else TENSOR
    return UNKNOWN


def _of_operator(name: str, args: tuple[Any, ...], first: str | None) -> str:
    kinds = [arg.kind for arg in args if is_value(arg)]
    if name == "getitem":
        if first == TENSORS:
            return TENSOR if isinstance(args[1], int) else TENSORS
        return first or UNKNOWN
    if TENSOR in kinds:
        return TENSOR
    return SCALAR if all(kind == SCALAR for kind in kinds) else UNKNOWN


def is_value(x: Any) -> bool:
    """Return whether ``x`` is a proxy, without asking it, which `isinstance` might do."""
    return issubclass(type(x), Value)


def leaves_in(x: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists, dicts and slices hold, without asking a proxy what it is."""
    cls = type(x)
    if cls is slice:
        yield from leaves_in((x.start, x.stop, x.step))
    elif issubclass(cls, (tuple, list)):
        for item in x:
            yield from leaves_in(item)
    elif issubclass(cls, dict):
        yield from leaves_in(tuple(x.values()))
    else:
        yield x


#: calls that yield several tensors; that yield one or several, as they are called; that yield no tensor
_MANY = frozenset(
    (
        *("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit", "meshgrid"),
        *("broadcast_tensors", "topk", "sort", "kthvalue", "mode", "svd", "qr", "eigh", "eig", "slogdet", "frexp"),
        *("var_mean", "std_mean", "aminmax", "cummax", "cummin", "unsafe_chunk", "unsafe_split", "lstm", "gru"),
        *("rnn_tanh", "rnn_relu", "lstm_cell", "multi_head_attention_forward", "atleast_1d"),
    )
)
_SOMETIMES = frozenset(("max", "min", "median", "nanmedian", "unique", "unique_consecutive", "where", "nonzero"))
_SOMETIMES |= frozenset(("max_pool1d", "max_pool2d", "max_pool3d", "fractional_max_pool2d", "histogram"))
_SCALARS = frozenset(
    (
        *("size", "dim", "numel", "nelement", "ndimension", "stride", "storage_offset", "item", "tolist"),
        *("is_floating_point", "is_complex", "is_contiguous", "is_tensor", "get_device", "element_size", "equal"),
        *("is_same_size", "allclose", "is_nonzero", "data_ptr", "broadcast_shapes", "result_type", "promote_types"),
    )
)
