"""What a model is exported on: example inputs, and which of their dims are dynamic.

In text, ``x=1,80,T(8..)`` is an input ``x`` of two fixed dims and a dynamic one called ``T`` of at least 8, and
``ids=2,T:int64`` one of another dtype. Inputs with a name in common have that size in common.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from wnconvert.errors import OptionError, described
from wnconvert.torch_private import pytree

_INPUT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<dims>[^:]*)(:(?P<dtype>\w+))?")
_DIM = re.compile(r"(?P<size>\d+)|(?P<name>[A-Za-z_]\w*)(\((?P<least>\d*)\.\.(?P<most>\d*)\))?")
#: sizes that a dynamic dim is tried with, until the model runs
SIZES = (8, 32, 100, 256, 1024, 4096, 16384)
_FORM = "it must be of the form NAME=DIM,DIM,...[:dtype], such as x=1,80,T or ids=2,T(2..512):int64"


@dataclass(frozen=True)
class DynamicDim:
    """A dim whose size is left open.

    Attributes:
        name: what it is called.
        least: the least size that is asked for.
        most: the greatest.
    """

    name: str
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class InputSpec:
    """An input as the user describes it.

    Attributes:
        name: that of the parameter of the model's forward.
        dims: fixed sizes and dynamic dims.
        dtype: its dtype.
    """

    name: str
    dims: tuple[int | DynamicDim, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Example:
    """The arguments of a call, and which dims of them are dynamic, as `torch.export.export` takes it.

    Attributes:
        args: positional arguments.
        kwargs: arguments by name.
        dynamic_shapes: dims by input, or None where all are fixed.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any = None


def read_input(text: str) -> InputSpec:
    """Return what a text such as ``x=1,80,T(8..):float32`` means.

    Raises:
        OptionError: it is of another form, or names no dtype.
    """
    found = _INPUT.fullmatch("".join(text.split()))
    if not found:
        raise OptionError(f"input {text!r} cannot be read; {_FORM}")
    dims = tuple(_dim(each, text) for each in found["dims"].split(",")) if found["dims"] else ()
    dtype = getattr(torch, found["dtype"] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise OptionError(f"input {text!r} names no dtype of torch; such are float32, float16, int64, bool")
    return InputSpec(found["name"], dims, dtype)


def _dim(text: str, whole: str) -> int | DynamicDim:
    found = _DIM.fullmatch(text)
    if not found:
        raise OptionError(f"input {whole!r} has a dim {text!r}; {_FORM}")
    if found["size"]:
        return int(found["size"])
    dim = DynamicDim(found["name"], *(int(found[key]) if found[key] else None for key in ("least", "most")))
    if dim.least is not None and dim.most is not None and dim.least >= dim.most:
        raise OptionError(f"input {whole!r} has a dim {text!r}, which leaves no two sizes")
    return dim


def example_of(specs: Sequence[InputSpec], model: nn.Module) -> Example:
    """Return arguments that the model runs on, random ones, as small as it takes them.

    Raises:
        OptionError: it has other parameters, or does not run on any.
    """
    _require_consistent(specs)
    parameters = inspect.signature(model.forward)
    last = "it takes none"
    for size in SIZES:
        given = {each.name: _tensor(each, size, specs) for each in specs}
        try:
            bound = parameters.bind(**given)
        except TypeError as error:
            raise OptionError(f"the inputs do not fit forward{parameters}: {error}") from error
        try:
            with torch.no_grad(), torch.random.fork_rng():
                model(*bound.args, **bound.kwargs)
        except Exception as error:  # noqa: BLE001 - it is the model's own code
            last = described(error)
            if not any(isinstance(dim, DynamicDim) for each in specs for dim in each.dims):
                break
            continue
        order = [*bound.arguments]
        by_name = {each.name: _open(each) for each in specs}
        return Example(bound.args, dict(bound.kwargs), {name: by_name[name] for name in order if name in by_name})
    raise OptionError(f"the model does not run on inputs of these shapes: {last}")


def _require_consistent(specs: Sequence[InputSpec]) -> None:
    """Check that no input is given twice, and that the bounds of all dims of one name leave two sizes."""
    names = [each.name for each in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"input {twice[0]!r} is given twice; give each input once")
    for name in dict.fromkeys(dim.name for each in specs for dim in each.dims if isinstance(dim, DynamicDim)):
        least, most = _bounds(name, specs)
        if most is not None and least >= most:
            raise OptionError(f"the inputs have dims {name!r} of at least {least} and at most {most}, no two sizes")


def _tensor(spec: InputSpec, size: int, specs: Sequence[InputSpec]) -> Tensor:
    shape = [dim if isinstance(dim, int) else _size(dim.name, size, specs) for dim in spec.dims]
    generator = torch.Generator().manual_seed(0)
    if spec.dtype.is_floating_point or spec.dtype.is_complex:
        wide = torch.complex64 if spec.dtype.is_complex else None
        return torch.randn(shape, generator=generator, dtype=wide).to(spec.dtype)
    return torch.randint(2, shape, generator=generator).to(spec.dtype)


def _size(name: str, size: int, specs: Sequence[InputSpec]) -> int:
    """Return the size that all dims of one name have: different for different names, and within all bounds."""
    dims = [dim for each in specs for dim in each.dims if isinstance(dim, DynamicDim)]
    names = list(dict.fromkeys(dim.name for dim in dims))
    least, most = _bounds(name, specs)
    wanted = max(size + names.index(name), least, 2)
    return wanted if most is None else min(wanted, most)


def _bounds(name: str, specs: Sequence[InputSpec]) -> tuple[int, int | None]:
    """Return the least and the greatest size that all dims of one name may have."""
    own = [dim for each in specs for dim in each.dims if isinstance(dim, DynamicDim) and dim.name == name]
    return max(dim.least or 0 for dim in own), min((dim.most for dim in own if dim.most is not None), default=None)


def _open(spec: InputSpec) -> dict[int, Any]:
    """Return the dynamic dims of an input by number, with their names."""
    return {index: dim for index, dim in enumerate(spec.dims) if isinstance(dim, DynamicDim)}


def for_torch(dynamic_shapes: Any) -> Any:
    """Return dims as `torch.export.export` takes them: those that have a name or bounds alone are found by it."""
    return pytree.tree_map(_for_torch, dynamic_shapes)


def _for_torch(dim: Any) -> Any:
    if isinstance(dim, str):
        return Dim.DYNAMIC
    return Dim.DYNAMIC(min=dim.least, max=dim.most) if isinstance(dim, DynamicDim) else dim


def names_of(dynamic_shapes: Any, inputs: Sequence[Any]) -> dict[str, dict[int, str]]:
    """Return the names of dynamic dims by input, where they are given by input: by its name, or in its place."""
    if isinstance(dynamic_shapes, (tuple, list)) and len(dynamic_shapes) == len(inputs):
        dynamic_shapes = dict(zip(inputs, dynamic_shapes, strict=True))
    if not isinstance(dynamic_shapes, Mapping):
        return {}
    named = {}
    for name, dims in dynamic_shapes.items():
        listed = dims.items() if isinstance(dims, Mapping) else enumerate(dims or ())
        found = {index: called for index, dim in listed if (called := _name(dim)) is not None}
        named[str(name)] = found
    return named if any(named.values()) else {}


def _name(dim: Any) -> str | None:
    if isinstance(dim, str):
        return dim
    return dim.name if isinstance(dim, DynamicDim) else getattr(dim, "__name__", None)


def arguments(program: ExportedProgram, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs in the order of a program's signature as the arguments of a call."""
    args, kwargs = pytree.tree_unflatten(list(values), program.call_spec.in_spec)
    return args, kwargs


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors that arguments or results consist of."""
    return [each for each in pytree.tree_leaves(value) if isinstance(each, Tensor)]
