"""What a layout is: how the parts of a weight are spelled as keys, and how a live module composes them.

A scheme is mathematics; a layout is what one piece of software made of it. `Layout.find` says which keys belong
together, by the whole set of partners, by rank and by shape, and `Layout.compose` calls the very functions that the
module calls, in its order. What keys and shapes leave open (which dim a spectral norm keeps on a square matrix, say) is
a `Group` with a `Group.problem`: it is reported, and refused until the user says.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from wnconvert.checkpoint.content.names import is_weight_name, parted
from wnconvert.checkpoint.content.shapes import Shapes
from wnconvert.errors import OptionError, UnknownNameError
from wnconvert.lazy import Tensor
from wnconvert.reasons import Reason, Why
from wnconvert.registry import Registry
from wnconvert.scheme import SCHEMES, identify

#: ``"runtime"``: the bits that the live module computes here, with its own kernels. ``"reference"``: float64, rounded
#: once to the dtype of the weight, which gives the same bits on (nearly) every device.
Precision: TypeAlias = Literal["runtime", "reference"]
#: what the user says of the kept dim: a number, None for the whole tensor, or nothing.
DimHint: TypeAlias = int | Literal["default"] | None
#: returns the values of one entry.
Load: TypeAlias = Callable[[str], Tensor]


@dataclass(frozen=True)
class Group:
    """The keys of one weight.

    Attributes:
        stem: dotted name of the weight that they stand for.
        layout: name of the layout.
        scheme: name of the scheme, several joined by ``+`` where one is on top of another; None where only the look of
            the keys is known.
        keys: keys by part name, in the order of the state dict.
        kept: the kept dims, None where the parts do not show them.
        stack: kept dims of each spectral norm on top of the first scheme.
        problem: why it cannot be composed, or None.
        notes: what had to be taken for granted.
    """

    stem: str
    layout: str
    scheme: str | None
    keys: Mapping[str, str]
    kept: tuple[int, ...] | None = None
    stack: tuple[tuple[int, ...], ...] = ()
    problem: Reason | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Listing:
    """A state dict as a layout sees it: what it lists, with as little as possible of what it holds.

    Attributes:
        shapes: of all tensors by name, in order.
        load: returns the values of one entry, for what shapes leave open; None where nobody may look at them, as in
            `inspect`. What only they would tell is then a `Group.problem`.
        dim: the kept dim, where the user gives it.
        named: whether the user, or a model, says that a dotted name is that of a weight.
    """

    shapes: Shapes
    load: Load | None = None
    dim: DimHint = "default"
    named: Callable[[str], bool] = field(default=is_weight_name)

    def by_suffix(self, suffixes: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the keys that end in one of ``suffixes``: by what is before it, then by suffix."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        either = tuple(suffixes)
        for key in self.shapes:
            for suffix in suffixes if key.endswith(either) else ():
                if key.endswith(suffix) and len(key) > len(suffix):
                    found[key[: -len(suffix)]][suffix] = key
        return found

    @cached_property
    def parted(self) -> dict[str, dict[str, str]]:
        """The keys that end in the name of a part of any scheme: by stem, then by part."""
        return parted(self.shapes)

    def misfit(self, keys: Mapping[str, str], more: str = "") -> Reason:
        """Return that parts do not fit together, with their shapes."""
        shapes = ", ".join(f"{part} {self.shapes[key]}" for part, key in keys.items())
        return Why.MISFIT(how=f": {shapes}{more}")


class Migrated(NamedTuple):
    """A weight in the parts that torch's interfaces have.

    Attributes:
        parts: what this layout calls each part that stays, by torch's name of it, in the order of the keys.
        values: the tensors that are new, by torch's name.
        note: what the user should know.
        reordered: whether the parameters of the model may come in another order, by which optimizers tell them.
    """

    parts: Mapping[str, str]
    values: Mapping[str, Tensor] = MappingProxyType({})
    note: str | None = None
    reordered: bool = True


class Layout(ABC):
    """A way to spell the parts of a weight as keys. Instances are frozen and hold the options of a preset only."""

    #: snake_case name, or the name by which users know a preset.
    name: ClassVar[str]
    #: what people call it, for messages.
    title: ClassVar[str]
    #: whether keys and shapes alone identify it; else the user names it.
    automatic: ClassVar[bool] = True
    #: whether its keys only hint at a layout that the user may name; `inspect` counts such weights as plain.
    hint: ClassVar[bool] = False
    #: whether it is an adapter over weights that it does not hold, which `wnconvert.checkpoint.fold_adapter` folds.
    adapter: ClassVar[bool] = False
    #: which of torch's two interfaces reads it.
    api: ClassVar[Literal["hook", "parametrization"] | None] = None
    #: schemes that it can be written with, and their parts.
    spells: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: whether the parts may have several dtypes.
    mixed: ClassVar[bool] = False
    #: the part that has the weight's shape and dtype, by the scheme that comes first.
    direction: ClassVar[Mapping[str, str]] = {"weight_norm": "v", "spectral_norm": "orig"}
    #: the part that scales the direction, where no scheme says that.
    magnitude: ClassVar[str | None] = None
    #: whether its parts are the very ones that the scheme splits a weight into, so that `apply` can do that again.
    repeatable: ClassVar[bool] = False
    #: the layout as which its keys are reported, and refused, until the user names this one.
    seen_as: ClassVar[str | None] = None
    #: what torch has nothing like, where that is so: ``"weight standardization"``.
    unknown_to_torch: ClassVar[str | None] = None

    @abstractmethod
    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the groups of keys that are of this layout."""

    @abstractmethod
    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight in evaluation mode, by the calls that the live module makes."""

    def channelwise(self, group: Group) -> bool:
        """Return whether `compose` of some indices of the first dim gives the very bits of those of the whole."""
        return False

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return parts from which `compose` gives the weight back, or the nearest that this layout can hold.

        Args:
            weight: the weight in evaluation mode.
            scheme: one that the layout `spells`.
            kept: the kept dims, which a layout of one scheme and one dim knows itself.
        """
        raise OptionError(f"layout {self.name!r} cannot be written")

    def restored(
        self, weight: Tensor, scheme: str, kept: tuple[int, ...], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """Return parts from which `compose` gives the weight back, with the state of others; None where there are none.

        Args:
            weight: the weight in evaluation mode.
            scheme: one that the layout `spells`.
            kept: the kept dims.
            like: parts that this weight, or what it was trained from, had, as torch's interfaces name them.
        """
        return None

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return why this layout cannot hold a weight that does not come back from the parts."""
        return Why.INEXACT()

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return the key of a part."""
        raise OptionError(f"layout {self.name!r} cannot be written")

    def migrated(self, group: Group, parts: Mapping[str, Tensor]) -> Migrated | None:
        """Return the parts as torch's interfaces have them, or None where these have none with the same numbers.

        Composed by torch's modules they give what `compose` gives.

        Args:
            group: a group; it has no problem, unless this is one of torch's own layouts.
            parts: its tensors by part name.
        """
        return Migrated({part: part for part in group.keys}, reordered=False) if self.api else None

    def is_factor(self, key: str) -> bool:
        """Return whether a key is of an adapter: no weight by itself, though it may be named like one."""
        return False

    def outline(self, shapes: Shapes) -> str | None:
        """Return what the adapter among some keys is, where there is one."""
        return None

    def trained(self, group: Group) -> tuple[str, ...]:
        """Return the keys of a group that are parameters in the live module; the others are buffers."""
        first = (group.scheme or "").partition("+")[0]
        state = SCHEMES.get(first).state if first in SCHEMES else frozenset()
        # the vectors of norms on top have their position in front
        return tuple(key for part, key in group.keys.items() if part not in state and "." not in part)

    def remark(self, keys: Iterable[object], *, reference: bool = False) -> str | None:
        """Return what to say of a state dict in which nothing is found by itself, though some keys are of this layout.

        Args:
            keys: those of the state dict.
            reference: whether other files are to be made like it; else it is to be converted itself.
        """
        return None

    def named(self, stem: str) -> bool:
        """Return whether a dotted name may be that of a weight of this layout."""
        return is_weight_name(stem)

    def wrapped(self, stem: str) -> str:
        """Return the dotted name that a weight has inside of the layout's wrapping module, if it has one."""
        return stem

    def unwrapped(self, stem: str) -> tuple[str, str] | None:
        """Return the prefix of a wrapping module's keys and what is left of it without the wrapper, or None."""
        return None


LAYOUTS: Registry[type[Layout]] = Registry("layout", "wnconvert.checkpoint.layouts", "wnconvert.layouts", Layout)


def register(cls: type[Layout]) -> type[Layout]:
    """File a layout under its `Layout.name`; a class decorator."""
    return LAYOUTS.register(cls.name)(cls)


@cache
def without_options(kind: type[Layout]) -> Layout:
    """Return the layout of a class without options, always the same: layouts are frozen."""
    return kind()


def automatic_layouts() -> list[Layout]:
    """Return the layouts that need not be named by the user."""
    return [LAYOUTS.get(name)() for name in LAYOUTS if LAYOUTS.get(name).automatic]


def is_factor(key: str) -> bool:
    """Return whether a key is of an adapter of any layout."""
    return any(LAYOUTS.get(name)().is_factor(key) for name in LAYOUTS if LAYOUTS.get(name).adapter)


def outline(shapes: Shapes) -> str:
    """Return what the adapter among some keys is, or nothing where there is none."""
    told = (LAYOUTS.get(name)().outline(shapes) for name in LAYOUTS if LAYOUTS.get(name).adapter)
    return next(filter(None, told), "")


def find_groups(
    tensors: Mapping[str, Tensor],
    *,
    load: Load | None = None,
    dim: DimHint = "default",
    named: Callable[[str], bool] = is_weight_name,
    presets: Iterable[str | Layout] = (),
) -> list[Group]:
    """Return the groups of keys in a state dict, in the order of their first keys; plain weights are not among them.

    Args:
        tensors: the state dict; on the meta device, say, if ``load`` is given.
        load: returns the values of one entry; needed only where shapes leave a question open.
        dim: the kept dim, for what does not show it.
        named: tells the names of weights.
        presets: layouts that leave no trace in the keys, or their names. They come before all others.

    Raises:
        UnknownNameError: no layout has a name that is given.
        OptionError: the presets are no list of layouts and names.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    listing = Listing(shapes, load or tensors.__getitem__, dim, named)
    chosen = resolve_presets(presets)
    known = load is not None
    given = [_checked(group, layout, tensors, known) for layout in chosen for group in layout.find(listing)]
    found = [
        _checked(group, layout, tensors, known) for layout in automatic_layouts() for group in layout.find(listing)
    ]
    taken = {key for group in given for key in group.keys.values()}
    found = [group for group in found if taken.isdisjoint(group.keys.values())]
    order = {key: index for index, key in enumerate(tensors)}
    groups = [*given, *settled(found)]
    return sorted(groups, key=lambda group: min(order[key] for key in group.keys.values()))


def unidentified(parts: Iterable[str]) -> Reason | None:
    """Return that part names belong to no scheme, or None where they do."""
    names = frozenset(parts)
    return None if identify(names) else Why.SCHEME_UNKNOWN(parts=" and ".join(map(repr, parts)), scheme="any scheme")


def direction(group: Group, layout: Layout) -> str:
    """Return the part of a group that has the weight's shape and dtype."""
    return layout.direction[(group.scheme or "").partition("+")[0]]


def preset(name: str, **options: Any) -> Layout:
    """Return the layout of that name with the given options.

    Raises:
        UnknownNameError: there is none.
        OptionError: it has no such option.
    """
    try:
        return LAYOUTS.get(name)(**options)
    except TypeError as error:
        raise OptionError(f"layout {name!r} has not all of the options {', '.join(map(repr, options))}") from error


def options_of(kind: type[Layout]) -> dict[str, bool | int | float | str]:
    """Return the options of a layout that can be given as text, with their defaults."""
    every: dict[str, Any] = {each.name: each.default for each in fields(kind)} if is_dataclass(kind) else {}
    return {name: default for name, default in every.items() if isinstance(default, (bool, int, float, str))}


def read_preset(text: str) -> Layout:
    """Return the layout that ``"nfnet"`` or ``"nfnet:gamma=1.7,eps=1e-5"`` means.

    Raises:
        UnknownNameError: there is none.
        OptionError: it has no such option, or the value cannot be used.
    """
    name, _, rest = text.partition(":")
    kind = LAYOUTS.get(name)
    known = options_of(kind)
    options: dict[str, Any] = {}
    for pair in re.split(r",(?=\w+=)", rest) if rest else []:
        option, equals, value = pair.partition("=")
        if not equals or option not in known:
            listed = ", ".join(known) or "none"
            raise OptionError(f"preset {name!r} has no option {option!r} (known: {listed}); give name:option=value")
        try:
            options[option] = _read(value, type(known[option]))
        except (ValueError, KeyError):
            what = "true or false" if isinstance(known[option], bool) else "a number"
            raise OptionError(f"option {name}.{option} is {value!r}; it must be {what}") from None
    return kind(**options)


def _read(text: str, kind: type) -> Any:
    return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)


def resolve_layout(layout: str | Layout) -> Layout:
    """Return ``layout`` itself, or the one that a text means, as `read_preset` reads it.

    Raises:
        UnknownNameError: no layout has that name.
        OptionError: it has no such option; or ``layout`` is neither.
    """
    if isinstance(layout, Layout):
        return layout
    if not isinstance(layout, str):
        raise OptionError(f"layout is {layout!r}; give its name, or wnconvert.checkpoint.preset(name, option=...)")
    return read_preset(layout)


def resolve_presets(presets: Iterable[str | Layout]) -> tuple[Layout, ...]:
    """Return the layouts that a user gives, as they are or by their names.

    Raises:
        UnknownNameError: no layout has a name that is given.
        OptionError: they are no list; or see `resolve_layout`.
    """
    if isinstance(presets, (str, Layout)) or not isinstance(presets, Iterable):
        raise OptionError(f"presets is {presets!r}; give a list, of layouts or of their names")
    return tuple(map(resolve_layout, presets))


def scheme_of(layout: Layout, scheme: str | None, dim: object = "default") -> str:
    """Return the scheme to write a layout with: the given one, or the first that the layout can spell.

    Raises:
        OptionError: the layout cannot be written, or not with that scheme, or not with a dim of one's own.
    """
    if dim != "default" and layout.api is None:
        raise OptionError(f"dim is {dim!r}, but layout {layout.name!r} keeps one of its own; leave it out")
    if not layout.spells:
        raise OptionError(f"layout {layout.name!r} cannot be written")
    if scheme is not None and scheme not in layout.spells:
        known = " or ".join(map(repr, layout.spells))
        raise OptionError(f"scheme is {scheme!r}, but layout {layout.name!r} is for {known}")
    return scheme or next(iter(layout.spells))


def spelling(api: str, scheme: str) -> Layout:
    """Return the layout in which one of torch's interfaces keeps a scheme.

    Raises:
        UnknownNameError: there is none.
    """
    for name in LAYOUTS:
        if LAYOUTS.get(name).api == api and scheme in LAYOUTS.get(name).spells:
            return LAYOUTS.get(name)()
    raise UnknownNameError(f"torch has no {api} of {scheme}")


def remark_on(keys: Iterable[object], *, reference: bool = False) -> str | None:
    """Return the first `Layout.remark` of any layout."""
    held = list(keys)
    said = (LAYOUTS.get(name)().remark(held, reference=reference) for name in LAYOUTS)
    return next(filter(None, said), None)


def _checked(group: Group, layout: Layout, tensors: Mapping[str, Tensor], known: bool) -> Group:
    """Return the group with a problem, if nothing can be computed with some part of it.

    Args:
        group: the group.
        layout: what found it.
        tensors: the state dict.
        known: whether the values of tensors on the meta device can be had.
    """
    from wnconvert.fitness import reason_against_part  # which needs torch; what finds groups by shapes does not

    if group.problem:
        return group
    parts = {part: tensors[key] for part, key in group.keys.items()}
    for part, tensor in parts.items():
        if reason := reason_against_part(part, tensor, is_read=not known):
            return replace(group, problem=reason)
    if not layout.mixed and len({tensor.dtype for tensor in parts.values()}) > 1:
        return replace(group, problem=Why.DTYPE())
    return group


def settled(groups: list[Group]) -> list[Group]:
    """Return the groups without those whose keys a better one has: one with a scheme, or with more keys."""
    claims: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for key in group.keys.values():
            claims[key].append(group)
    return [group for group in groups if all(_rank(group) >= _rank(o) for k in group.keys.values() for o in claims[k])]


def _rank(group: Group) -> tuple[bool, int]:
    return group.scheme is not None, len(group.keys)
