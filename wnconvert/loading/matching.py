"""Which tensors of a file belong to which weights of a model, and what is to be done with them. Nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.content.names import parted as parted_keys, unwrapped
from wnconvert.checkpoint.layout import LAYOUTS, Layout
from wnconvert.checkpoint.weights.folding import hidden_options
from wnconvert.checkpoint.weights.outcome import DimOrDefault
from wnconvert.checkpoint.weights.reading import Parted, Request, find_parted
from wnconvert.loading.forms import Form, Held
from wnconvert.loading.places import Place
from wnconvert.loading.report import AS_IS, How
from wnconvert.reasons import Reason
from wnconvert.scheme import SCHEMES, Scheme
from wnconvert.selection import WeightedOp

#: what torch's own batch norms fill in where an old file lacks it
_COUNT = "num_batches_tracked"
#: what holds no tensor of a model, and is passed on as it is
_EXTRA = "_extra_state"


@dataclass(frozen=True)
class Step:
    """What is to be done for one weight.

    Attributes:
        how: see `How`.
        target: the weight in the model: in parts, or the key of a plain one.
        parted: the weight in the file, if it is in parts there.
        plain: its key in the file, if it is plain.
    """

    how: How
    target: Form | str
    parted: Parted | None = None
    plain: str = ""

    @property
    def name(self) -> str:
        """Dotted name of the weight in the model."""
        return self.target if isinstance(self.target, str) else self.target.fqn


@dataclass
class Match:
    """A place in a file beside a model.

    Attributes:
        place: the place.
        request: how its weights are read.
        copied: the keys in the file by those in the model, for what is copied.
        steps: what else is to be done.
        missing: keys of the model that the file has nothing for.
        left: keys of the file that the model has nothing for.
        misfits: what has another shape, as texts.
        notes: what had to be taken for granted.
        canonical: returns the name by which both sides are compared.
    """

    place: Place
    request: Request
    copied: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    canonical: Callable[[str], str] = unwrapped

    @property
    def fits(self) -> bool:
        """Whether everything has its place."""
        return not (self.missing or self.left or self.misfits)


class Matching:
    """Compares a place in a file with what a model holds.

    Args:
        place: the place.
        held: what the model holds.
        dim: the kept dim, for what shows it in neither.
        presets: layouts that leave no trace in keys.
    """

    def __init__(self, place: Place, held: Held, dim: DimOrDefault, presets: tuple[Layout, ...]) -> None:
        self.place, self.held = place, held
        self.tensors = place.state_dict.tensors
        self.there = {key: value for key, value in place.state_dict.entries.items() if _is_loaded(key, value)}
        canonical = _canonical(self.there, held.entries)
        self.keys = {canonical(key): key for key in self.there}
        request = Request(dim, presets, recorded=place.recorded, ops=self._ops(canonical))
        self.match = Match(place, request, canonical=canonical)
        self.parted = {
            canonical(_outside(group.stem, group.layout)): each
            for each in find_parted(place.state_dict, request)
            if not each.groups[0].layout or not LAYOUTS.get(each.groups[0].layout).hint or not _is_open(each)
            for group in each.groups
        }
        self.used: set[str] = set()

    def run(self) -> Match:
        """Return what is to be done, and what does not fit."""
        self._match_forms()
        for key, value in self.held.entries.items():
            if key not in self.held.parts:
                self._match_plain(key, value)
        self._fill_ties()
        self.match.left = [key for key in self.there if key not in self.used]
        return self.match

    def _ops(self, canonical: Callable[[str], str]) -> dict[str, WeightedOp]:
        """Return the weights of the model by the names that they may have in the file."""
        held = {canonical(form.fqn): self.held.tensors[form.keys[form.lead]] for form in self.held.forms}
        held |= {canonical(key): value for key, value in self.held.tensors.items() if key not in self.held.parts}
        stems = {*parted_keys(self.tensors), *self.tensors}
        stems |= {key.rpartition("_")[0] for key in self.tensors}
        stems |= {_parametrized(key) for key in self.tensors if "parametrizations." in key}
        known = {stem: held[canonical(stem)] for stem in stems if canonical(stem) in held}
        return {stem: WeightedOp(stem, (), tuple(like.shape), like.dtype) for stem, like in known.items()}

    def _match_forms(self) -> None:
        as_is = {form.fqn: self._is_same(form) for form in self.held.forms}
        for form in self.held.forms:
            together = [form]
            if isinstance(form.by, Scheme) and (form.by.shared or not _is_standard(form.by)):
                # what a scheme has in common is of all weights or of none; and where the options of parts are not
                # recorded, they are those of the model only if the file can be one of this very model
                together = [each for each in self.held.forms if each.by == form.by]
            self._match_form(form, same=all(as_is[each.fqn] for each in together))

    def _is_same(self, form: Form) -> bool:
        """Return whether the file has the very parts, and means by them what the model does."""
        keys = [self.keys.get(self.match.canonical(key)) for key in form.keys.values()]
        if any(key is None for key in keys) or any(map(self._shape_differs, form.keys.values(), keys)):
            return False
        parted = self.parted.get(self.match.canonical(form.fqn))
        return parted is None or not _contradicts(parted, form)

    def _match_form(self, form: Form, *, same: bool) -> None:
        name = self.match.canonical(form.fqn)
        parted, plain = self.parted.get(name), self.keys.get(name)
        if same:
            keys = {key: self.keys[self.match.canonical(key)] for key in form.keys.values()}
            self.match.copied.update(keys)
            self.used.update(keys.values())
            self._step(AS_IS, form, parted)
            if isinstance(form.by, Scheme) and not _is_standard(form.by) and parted and not _scheme_of(parted):
                self.match.notes.append(_taken_for_granted(form.by))
        elif parted is not None:
            self.used.update(key for group in parted.groups for key in group.keys.values())
            self.used.update(parted.by.shared if isinstance(parted.by, Scheme) else ())
            self._step("respelled" if _may_be_respelled(parted, form) else "folded and split", form, parted)
        elif plain is not None:
            self.used.add(plain)
            if not self._shape_differs(form.keys[form.lead], plain, form.fqn):
                self._step("split", form, None, plain)
        else:
            self.match.missing += [key for key in form.keys.values() if key not in self.match.missing]

    def _match_plain(self, key: str, value: Any) -> None:
        name = self.match.canonical(key)
        parted, plain = self.parted.get(name), self.keys.get(name)
        if parted is not None and (plain is None or plain in parted.groups[0].keys.values()):
            self.used.update(own for group in parted.groups for own in group.keys.values())
            self.used.update(parted.by.shared if isinstance(parted.by, Scheme) else ())
            self._step("folded", key, parted)
        elif plain is not None:
            self.used.add(plain)
            if not self._shape_differs(key, plain, key):
                self.match.copied[key] = plain
                self._step(AS_IS, key)
        elif not key.endswith(_COUNT):
            self.match.missing.append(key)

    def _step(self, how: How, target: Form | str, parted: Parted | None = None, plain: str = "") -> None:
        self.match.steps.append(Step(how, target, parted, plain))

    def _shape_differs(self, held: str, there: str | None, said_of: str = "") -> bool:
        """Return whether a tensor has another shape than that of the model; noted where a name is given."""
        own, other = self.held.entries[held], self.there[there or ""]
        if isinstance(own, Tensor) != isinstance(other, Tensor):
            shapes = ("a tensor" if isinstance(each, Tensor) else "no tensor" for each in (other, own))
        elif not isinstance(own, Tensor) or own.shape == other.shape:
            return False
        else:
            shapes = (str(tuple(each.shape)) for each in (other, own))
        if said_of:
            self.match.misfits.append("{!r} is {}, but {} in the model".format(said_of, *shapes))
        return True

    def _fill_ties(self) -> None:
        """Let what the file lacks be what the model ties it to."""
        given = {id(self.held.entries[key]) for key in (*self.match.copied, *self._made())}
        tied = [key for key in self.match.missing if id(self.held.entries[key]) in given]
        self.match.missing = [key for key in self.match.missing if key not in tied]
        for key in tied:
            self._step("tied", key)

    def _made(self) -> Iterable[str]:
        for step in self.match.steps:
            yield from (step.target,) if isinstance(step.target, str) else step.target.keys.values()


def _is_loaded(key: Any, value: Any) -> bool:
    return isinstance(key, str) and (isinstance(value, Tensor) or key.rpartition(".")[2] == _EXTRA)


def _canonical(*sides: Mapping[str, Any]) -> Callable[[str], str]:
    """Return names without what wrappers put into them, unless a side has two names that this would make one."""
    clear = all(len({unwrapped(key) for key in side}) == len(side) for side in sides)
    return unwrapped if clear else str


def _outside(stem: str, layout: str) -> str:
    prefixes = LAYOUTS.get(layout)().unwrapped(stem) if layout else None
    return stem if prefixes is None else prefixes[1] + stem[len(prefixes[0]) :]


def _parametrized(key: str) -> str:
    module, _, rest = key.rpartition("parametrizations.")
    return module + rest.partition(".")[0]


def _is_open(parted: Parted) -> bool:
    return isinstance(parted.by, Reason)


def _scheme_of(parted: Parted) -> Scheme | None:
    """Return the scheme, with its options, that is sure to be meant by the parts in a file; None where none is."""
    if isinstance(parted.by, Scheme):
        return None if parted.guessed else parted.by
    name = str(parted.groups[0].scheme)
    if isinstance(parted.by, Reason) or parted.guessed or name not in SCHEMES:
        return None  # parts as wnconvert and torch's hooks spell them may be of either
    return SCHEMES.get(name)()


def _contradicts(parted: Parted, form: Form) -> bool:
    """Return whether the file says that its parts mean another weight than the model would make of them."""
    said = _scheme_of(parted)
    if said is None or form.by is None:
        return False
    meant = form.by if isinstance(form.by, Scheme) else SCHEMES.get(form.scheme)() if form.scheme in SCHEMES else None
    return meant is not None and (said.name != meant.name or hidden_options(said) != hidden_options(meant))


def _may_be_respelled(parted: Parted, form: Form) -> bool:
    """Return whether the file has the numbers of one of torch's interfaces, and the model too, under other keys."""
    group = parted.groups[0]
    name = str(group.scheme)
    if group.kept not in (None, form.kept):
        return False
    theirs = _scheme_of(parted) or (SCHEMES.get(name)() if name in SCHEMES and group.layout else None)
    api = form.by.api if isinstance(form.by, Layout) else _api(form)
    standard = isinstance(form.by, Layout) or (form.by is not None and _is_standard(form.by))
    return bool(api and group.layout and standard and theirs and _is_standard(theirs) and theirs.name == form.scheme)


def _api(form: Form) -> str | None:
    """Return ``"hook"`` for what this package spells as torch's hooks do."""
    spelled = {part: f"{form.fqn}_{part}" for part in form.keys}
    return "hook" if form.scheme in ("weight_norm", "spectral_norm") and dict(form.keys) == spelled else None


def _is_standard(scheme: Scheme) -> bool:
    return hidden_options(scheme) == hidden_options(type(scheme)())


def _taken_for_granted(scheme: Scheme) -> str:
    options = ", ".join(f"{name}={value}" for name, value in hidden_options(scheme).items())
    return f"the file does not record the options of {scheme.name}; they were taken to be those of the model, {options}"
