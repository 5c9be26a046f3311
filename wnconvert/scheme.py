"""What a scheme is: a pair of functions between a weight and its parts, and the static facts they may use.

The mathematics of a scheme is written once. `Scheme.compose` is an ordinary torch function: run on tensors it is
the fold, run on `torch.fx.Proxy` it is the inserted graph. No scheme knows of graphs, files or command lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch
from wnconvert.registry import Registry
from wnconvert.verification import is_dense

#: The tensors of one weight by part name, ``{"g": ..., "v": ...}``.
Parts: TypeAlias = Mapping[str, Tensor]

#: metadata of the field of an option under which a scheme has another way to the same weight
ONLY_GRADIENTS = {"only_gradients": True}


def magnitude_shape(shape: Sequence[int], kept: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a magnitude: size 1 at every reduced dim, ``()`` where the whole tensor is reduced."""
    # a list takes a third of the time of a generator, and torch.compile can see through it
    return tuple([size if dim in kept else 1 for dim, size in enumerate(shape)]) if kept else ()


def product(sizes: Iterable[int]) -> int:
    """Return the product of ``sizes``: a loop, because torch.compile does not look into `math.prod`."""
    result = 1
    for size in sizes:
        result *= size
    return result


@dataclass(frozen=True)
class WeightSpec:
    """The static facts of one weight; the same whether a scheme runs on tensors or on proxies.

    Attributes:
        shape: the weight's shape.
        kept: the dims that keep their size in the magnitude; all others are reduced. ``()`` is the whole tensor.
        dtype: the weight's dtype when it was split.
        contiguous: whether the weight was contiguous in the default memory format.
        ambiguous: whether the order of its elements in memory does not show its strides: a dim of size 1 has another
            than in the default memory format, as in channels_last weights of depthwise and 1x1 convolutions.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    dtype: torch.dtype = field(default_factory=lambda: torch.float32)
    contiguous: bool = True
    ambiguous: bool = False

    @classmethod
    def of(cls, weight: Tensor, kept: tuple[int, ...] = (0,)) -> WeightSpec:
        """Return the spec of ``weight`` with the given kept dims."""
        shape = tuple(weight.shape)
        ambiguous = 1 in shape and is_dense(weight) and weight.stride() != _default_strides(shape)
        return cls(shape, kept, weight.dtype, weight.is_contiguous(), ambiguous)

    def laid_out(self, x: Tensor, like: Tensor) -> Tensor:
        """Return ``x`` with the strides of ``like``, a tensor with those of the weight.

        What torch computes elementwise has the strides of its operands, save for dims of size 1. There it has those of
        the default memory format, with which a kernel may round differently. Where the weight is not `ambiguous`, this
        is ``x`` itself.
        """
        if not self.ambiguous:
            return x
        # not a view of x, below which a graph would be searched for the weight; and not empty_like, whose strides are
        # others without data (on the meta device, in export)
        return torch.slice_scatter(like.detach().clone(), x)

    @property
    def half(self) -> bool:
        """Whether the weight is in half precision."""
        return self.dtype in (torch.float16, torch.bfloat16)

    @property
    def dims(self) -> tuple[int, ...]:
        """The reduced dims."""
        return tuple([dim for dim in range(len(self.shape)) if dim not in self.kept])

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Shape of a magnitude, see `magnitude_shape`."""
        return magnitude_shape(self.shape, self.kept)

    @property
    def fan_in(self) -> int:
        """How many elements one magnitude covers."""
        return product([self.shape[dim] for dim in self.dims])

    @property
    def rows(self) -> int:
        """How many elements a magnitude has."""
        return product([self.shape[dim] for dim in self.kept])

    @property
    def blocks(self) -> tuple[int, int, int]:
        """The shape as the sizes before the kept dim, its own and those behind it; of at most one kept dim."""
        dim = self.kept[0] if self.kept else 0
        outer = product(self.shape[:dim])
        return outer, self.rows, self.fan_in // max(outer, 1)


@dataclass(frozen=True)
class Scheme(ABC):
    """A reparametrization: ``compose(split(weight))`` gives the weight back, or the nearest the scheme can express.

    A subclass is a frozen dataclass whose fields are the scheme's options; the command line, the manifest and the
    docs read them from there. `split` and `compose` must be free of side effects, and `compose` must consist of torch
    functions alone and take no decision on tensor values, so that it runs on `torch.fx.Proxy` too.

    Strides count as bits do, because kernels choose their way by them: the direction that `split` returns and the
    weight that `compose` returns have the strides of the weight. Clones and elementwise functions of all of it have
    them by themselves, and `WeightSpec.laid_out` puts right what they forget; so end both with it.
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
    #: whether `compose` only multiplies the elements of the direction, so that one which is zero gets no gradient of
    #: the others'.
    multiplies: ClassVar[bool] = False
    #: parts that, all multiplied by a number, multiply the weight by it, and leave the direction; in `kept_shape`.
    proportional: ClassVar[tuple[str, ...]] = ()
    #: the dim kept where the user says nothing: as torch means it, or ``"output"``.
    default_dim: ClassVar[int | str | None] = 0
    #: the options that must be positive.
    positive: ClassVar[tuple[str, ...]] = ()
    #: options that had other names before, by these: records of files may hold them.
    former: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: the formula, as code.
    formula: ClassVar[str]
    #: the paper.
    reference: ClassVar[str]

    def __post_init__(self) -> None:
        for option in self.positive:
            if not 0 < (value := getattr(self, option)) < float("inf"):
                raise OptionError(f"option {self.name}.{option} is {value!r}; it must be positive")

    @abstractmethod
    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the parts of ``weight``: new tensors, on its device, that share no memory with it.

        The direction has the weight's strides.
        """

    @abstractmethod
    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the weight that ``parts`` stand for: shape of ``spec``, dtype and strides of the direction."""

    def update(self, parts: Parts, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the new values that `state` takes in each training forward; ``{}`` for a scheme without state.

        They share no memory with the parts.
        """
        return {}

    def gather(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return what `compose` needs to know of all chosen weights together; it finds it among its parts."""
        return {}

    def split_shared(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return the `shared` parts, given the own parts of all chosen weights."""
        return {}

    def channelwise(self, spec: WeightSpec) -> bool:
        """Whether `split` and `compose` of some indices of the first dim give the very bits of those of the whole.

        Large files are then converted a few channels at a time, which stay in the processor's cache, and small weights
        many at a time. A channel that `unusable` names may change how `split` treats all channels of its weight.
        """
        return False

    def unusable(self, weight: Tensor, spec: WeightSpec) -> Tensor:
        """Return which indices of the first dim `split` cannot take as they are, where it is `channelwise`."""
        return torch.zeros(len(weight), dtype=torch.bool)

    def keeps_row(self, parts: Parts, spec: WeightSpec, row: int) -> bool:
        """Whether a row of the first dim that gets no gradient, the padding of an embedding, stays in training.

        It does where rows have parts of their own, and where it is zero in a direction that is only multiplied.
        Elsewhere the row would follow the others. Values that are not known (on the meta device) count as zero.
        """
        if 0 in spec.kept and not (self.state or self.shared):
            return True
        direction = parts[self.direction]
        return self.multiplies and (direction.is_meta or not bool(direction[row].any()))

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor | None:
        """Return what the direction is divided by in `compose`, where all else that it does is to multiply it.

        So the direction may be divided by it, and the weight stays; None where the direction's own size matters. In
        the kept shape, or one number.
        """
        return None

    def scaled(self, parts: Parts, factor: Tensor) -> dict[str, Tensor]:
        """Return the parts that change where the weight becomes ``factor`` times what it is, and the direction stays.

        Args:
            parts: tensors by part name.
            factor: positive, in a shape that parts of the kept shape take by broadcasting.

        Returns:
            new tensors by part name; ``{}`` where no part can do that. One in another shape than it had says that the
            part has no number for each of the factors.
        """
        return {part: parts[part] * factor for part in self.parts if part in self.proportional}

    def has_second_derivatives(self, spec: WeightSpec) -> bool:
        """Whether the gradient of `compose` may be differentiated again."""
        return True

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


SCHEMES: Registry[type[Scheme]] = Registry("scheme", "wnconvert.schemes", "wnconvert.schemes", Scheme)


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


def _default_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(max(size, 1) for size in shape[dim + 1 :]) for dim in range(len(shape)))


def _read_option(label: str, text: str, kind: type) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise OptionError(f"option {label} is {text!r}; it must be {wanted}") from None
