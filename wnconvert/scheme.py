"""What a scheme is: a pair of functions between a weight and its parts, and the static facts they may use.

The mathematics of a scheme is written once. `Scheme.compose` is an ordinary torch function: run on tensors it is
the fold, run on `torch.fx.Proxy` it is the inserted graph. No scheme knows of graphs, files or command lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from wnconvert.errors import OptionError
from wnconvert.registry import Registry

#: The tensors of one weight by part name, ``{"g": ..., "v": ...}``.
Parts: TypeAlias = Mapping[str, Tensor]

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class WeightSpec:
    """The static facts of one weight; the same whether a scheme runs on tensors or on proxies.

    Attributes:
        shape: the weight's shape.
        kept: the dims that keep their size in the magnitude; all others are reduced. ``()`` is the whole tensor.
        dtype: the weight's dtype when it was split.
        contiguous: whether the weight was contiguous in the default memory format.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    contiguous: bool = True

    @classmethod
    def of(cls, weight: Tensor, kept: tuple[int, ...] = (0,)) -> WeightSpec:
        """Return the spec of ``weight`` with the given kept dims."""
        return cls(tuple(weight.shape), kept, weight.dtype, weight.is_contiguous())

    @property
    def dims(self) -> tuple[int, ...]:
        """The reduced dims."""
        return tuple([dim for dim in range(len(self.shape)) if dim not in self.kept])

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Shape of a magnitude: size 1 at every reduced dim, ``()`` where the whole tensor is reduced."""
        # a list takes a third of the time of a generator, and torch.compile can see through it
        return tuple([size if dim in self.kept else 1 for dim, size in enumerate(self.shape)]) if self.kept else ()

    @property
    def fan_in(self) -> int:
        """How many elements one magnitude covers."""
        return prod([self.shape[dim] for dim in self.dims])


@dataclass(frozen=True)
class Scheme(ABC):
    """A reparametrization: ``compose(split(weight))`` gives the weight back, or the nearest the scheme can express.

    A subclass is a frozen dataclass whose fields are the scheme's options; the command line, the manifest and the
    docs read them from there. `split` and `compose` must be free of side effects, and `compose` must consist of torch
    functions alone and take no decision on tensor values, so that it runs on `torch.fx.Proxy` too.
    """

    #: snake_case name, equal to the name of the file.
    name: ClassVar[str]
    #: ordered part names -> the options under which the scheme has exactly these parts.
    variants: ClassVar[Mapping[tuple[str, ...], Mapping[str, Any]]]
    #: the part that has the weight's shape.
    direction: ClassVar[str]
    #: the part whose shape shows the kept dims, if there is one.
    magnitude: ClassVar[str | None] = None
    #: parts that are state, not trained: they become buffers.
    state: ClassVar[frozenset[str]] = frozenset()
    #: parts that all chosen weights have in common; one of each is made per model.
    shared: ClassVar[tuple[str, ...]] = ()
    #: the dim kept where the user says nothing: as torch means it, or ``"output"``.
    default_dim: ClassVar[int | str | None] = 0
    #: the formula, as code.
    formula: ClassVar[str]
    #: the paper.
    reference: ClassVar[str]

    @abstractmethod
    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the parts of ``weight``: new tensors, on its device, that share no memory with it."""

    @abstractmethod
    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the weight that ``parts`` stand for, in the shape of ``spec`` and the dtype of the direction."""

    def update(self, parts: Parts, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the new values that `state` takes in each training forward; ``{}`` for a scheme without state."""
        return {}

    def gather(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return what `compose` needs to know of all chosen weights together; it finds it among its parts."""
        return {}

    def split_shared(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return the `shared` parts, given the own parts of all chosen weights."""
        return {}

    def channelwise(self, spec: WeightSpec) -> bool:
        """Whether `split` and `compose` of some indices of the first dim give the very bits of those of the whole.

        Large files are then converted a few channels at a time, which stay in the processor's cache.
        """
        return False

    @property
    def preserving(self) -> bool:
        """Whether ``compose(split(weight))`` is bit-identical to any finite ``weight``."""
        return True

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts under these options: the suffixes in a state dict, in order."""
        for names, options in self.variants.items():
            if all(getattr(self, option) == value for option, value in options.items()):
                return names
        raise AssertionError(f"{self!r} matches none of its variants")

    @property
    def dynamic(self) -> bool:
        """Whether a training forward changes the state, see `update`."""
        return bool(self.state)

    def infer_kept(self, parts: Parts, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the kept dims that the shapes of stored parts show.

        Args:
            parts: tensors by part name.
            default: the answer where the parts do not tell.
        """
        if self.magnitude is None:
            return default
        shape, kept_shape = parts[self.direction].shape, parts[self.magnitude].shape
        if not kept_shape:
            return ()
        kept = tuple(dim for dim, size in enumerate(kept_shape) if size != 1)
        # with size 1 everywhere, any dim of size 1 may be the kept one: the first, as in torch's default
        return kept or next(((dim,) for dim, size in enumerate(shape) if size == 1), (0,))

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Scheme:
        """Build the scheme from texts such as ``{"p": "1"}``, each read as the type of the field's default.

        Raises:
            OptionError: an option that the scheme has not, or a text that is no value of its type.
        """
        defaults = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {}
        for option, text in options.items():
            if option not in defaults:
                known = ", ".join(defaults) or "none"
                raise OptionError(f"scheme {cls.name!r} has no option {option!r} (known: {known})")
            values[option] = _read_option(f"{cls.name}.{option}", text, type(defaults[option]))
        return cls(**values)


SCHEMES: Registry[Scheme] = Registry("scheme", "wnconvert.schemes", "wnconvert.schemes")


def register(cls: type[Scheme]) -> type[Scheme]:
    """File a scheme under its `Scheme.name`; a class decorator."""
    return SCHEMES.register(cls.name)(cls)


def resolve_scheme(scheme: str | Scheme) -> Scheme:
    """Return ``scheme`` itself, or the scheme of that name with its default options.

    Raises:
        UnknownNameError: no scheme has that name.
    """
    return scheme if isinstance(scheme, Scheme) else SCHEMES.get(scheme)()


def identify(names: frozenset[str]) -> Scheme | None:
    """Return the scheme that has exactly the parts ``names``, with the options that they show, or None."""
    for scheme in SCHEMES:
        cls = SCHEMES.get(scheme)
        for parts, options in cls.variants.items():
            if frozenset(parts) == names:
                return cls(**options)
    return None


def _read_option(label: str, text: str, kind: type) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise OptionError(f"option {label} is {text!r}; it must be {wanted}") from None
