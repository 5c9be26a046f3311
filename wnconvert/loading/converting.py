"""The tensors that a model is given: those of a file, each weight in the form in which the model holds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.content.difference import bits_equal
from wnconvert.checkpoint.content.tree import StateDict, storage_key
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Group, Layout
from wnconvert.checkpoint.weights.composing import by_layout, by_scheme
from wnconvert.checkpoint.weights.folding import fold_in
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo, Outcome
from wnconvert.checkpoint.weights.unfolding import Unfolding, unfold_in
from wnconvert.errors import NothingToConvertError
from wnconvert.fitness import reason_against_change
from wnconvert.loading.forms import Form, Held
from wnconvert.loading.matching import Match, Step
from wnconvert.loading.report import Loaded
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.selection import WeightedOp
from wnconvert.verification import change


@dataclass
class Made:
    """What a model is given.

    Attributes:
        entries: the state dict to load.
        loaded: what was done for each weight.
        refused: what cannot be loaded, as texts.
        notes: what the user should know.
    """

    entries: dict[str, Any] = field(default_factory=dict)
    loaded: list[Loaded] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def convert(match: Match, held: Held) -> Made:
    """Return the state dict that a match makes of a file, and what was done; large tensors are computed when used."""
    return _Converting(match, held).run()


class _Converting:
    def __init__(self, match: Match, held: Held) -> None:
        self.match, self.held, self.made = match, held, Made()
        self.there = match.place.state_dict.entries
        #: weights of the file that are plain now, by the name in the model
        self.plain: dict[str, Tensor] = {}
        #: those that were rounded to the dtype of the model, as they were
        self.exact: dict[str, Tensor] = {}
        self.errors: dict[str, float] = {}

    def run(self) -> Made:
        steps = self._respelled([step for step in self.match.steps if step.how == "respelled"])
        self._fold([step for step in steps if step.how in ("folded", "folded and split")])
        for step in steps:
            if step.how == "split":
                self._take(step, self.there[step.plain])
        self._split([step for step in steps if isinstance(step.target, Form) and step.name in self.plain])
        given = {**{key: self.there[own] for key, own in self.match.copied.items()}, **self.made.entries}
        self._report(steps, given)
        self.made.entries = {key: given[key] for key in (*self.held.entries, *given) if key in given}
        self._fill_ties([step for step in steps if step.how == "tied"])
        return self.made

    # ---- the file's own numbers under other keys

    def _respelled(self, wanted: Sequence[Step]) -> list[Step]:
        """Respell what can be, and return all steps, with those changed that cannot."""
        done: set[str] = set()
        for api, steps in _grouped((step, _api(step)) for step in wanted).items():
            done |= self._respell(steps, api)
        return [
            replace(step, how="folded and split") if step.how == "respelled" and step.name not in done else step
            for step in self.match.steps
        ]

    def _respell(self, steps: Sequence[Step], api: str) -> set[str]:
        keys = [key for step in steps for key in _keys(step)]
        parts = {key: self.there[key] for key in keys}
        dims = _grouped((step, _hint(step, self.match.request.dim)) for step in steps)
        done: set[str] = set()
        for dim, several in dims.items():
            own = {key: parts[key] for step in several for key in _keys(step)}
            try:
                conversion = migrate(Checkpoint(own, "torch_zip"), api, dim="default" if dim == "output" else dim)  # type: ignore[arg-type]
            except NothingToConvertError:
                continue
            found = {self.match.canonical(key): value for key, value in conversion.checkpoint.content.items()}
            self.made.notes += conversion.report.notes
            for step in several:
                form = step.target
                assert isinstance(form, Form)
                names = {key: self.match.canonical(key) for key in form.keys.values()}
                if all(n in found and found[n].shape == self.held.tensors[k].shape for k, n in names.items()):
                    self.made.entries.update({key: found[name] for key, name in names.items()})
                    done.add(step.name)
        return done

    # ---- plain weights

    def _fold(self, wanted: Sequence[Step]) -> None:
        """Compose weights of the file."""
        memo = Memo()
        for dim, steps in _grouped((step, _hint(step, self.match.request.dim)) for step in wanted).items():
            known = self.match.request.ops or {}
            stems = {g.stem: step for step in steps if step.parted for g in step.parted.groups}
            ops = {stem: known[stem] for stem in stems if stem in known}
            outcome = fold_in(self.match.place.state_dict, replace(self.match.request, dim=dim, ops=ops), memo)
            self.made.notes += outcome.notes
            reasons = {entry.fqn: entry.reason for entry in outcome.skipped}
            found = {self.match.canonical(key): value for key, value in outcome.entries.items() if isinstance(key, str)}
            for step in steps:
                group = step.parted.groups[0] if step.parted else None
                said = [reasons[g.stem] for g in (step.parted.groups if step.parted else ()) if g.stem in reasons]
                if said or group is None:
                    self._refuse(step.name, said[0])
                    continue
                self._take(step, found[self.match.canonical(step.name)])

    def _take(self, step: Step, weight: Tensor) -> None:
        """Take a plain weight, in the dtype of the model."""
        key = step.target.keys[step.target.lead] if isinstance(step.target, Form) else step.target
        like = self.held.tensors[key]
        if weight.shape != like.shape:
            self._refuse(step.name, Why.SHAPE(shape=tuple(weight.shape), expected=tuple(like.shape)))
            return
        if isinstance(step.target, str):
            self.made.entries[key] = weight
            self.plain[step.name] = weight
            return
        rounded = weight if weight.dtype == like.dtype else weight.detach().to(like.dtype)
        if rounded is not weight:
            self.exact[step.name] = weight.detach()
        self.plain[step.name] = rounded.detach()

    def _split(self, steps: Sequence[Step]) -> None:
        """Split plain weights as the model composes them."""
        wanted: dict[Any, list[Step]] = defaultdict(list)
        for step in steps:
            form = step.target
            assert isinstance(form, Form)
            if isinstance(form.by, Layout):
                wanted[form.by.name, form.scheme, form.kept].append(step)
            elif form.by is None:
                self._refuse(step.name, Why.SCHEME_UNKNOWN(what="nothing shows how the model composes it"))
            elif reason := _unheld(self.plain[step.name], form):
                self._refuse(step.name, reason)
            else:  # the model itself splits what it loads
                weight = self.made.entries[form.fqn] = self.plain[step.name]
                self.errors[step.name] = distance(self.exact.get(step.name, weight), weight)
        for several in wanted.values():
            self._unfold(several)

    def _unfold(self, steps: Sequence[Step]) -> None:
        form = steps[0].target
        assert isinstance(form, Form)
        assert isinstance(form.by, Layout)
        names = {step.target.fqn: step for step in steps if isinstance(step.target, Form)}
        plain = StateDict((), {name: self.plain[name] for name in names})
        ops = [WeightedOp(name, (), tuple(t.shape), t.dtype) for name, t in plain.tensors.items()]
        dim: DimOrDefault = None if form.kept == () else form.kept[0] if form.kept else "default"
        outcome: Outcome = unfold_in(plain, Unfolding(form.by, form.scheme, dim, ops=ops), Memo())
        for skipped in outcome.skipped:
            self._refuse(skipped.fqn, skipped.reason)
        for entry in outcome.converted:
            self._place(names[entry.fqn], entry, outcome.entries)

    def _place(self, step: Step, entry: Converted, entries: Mapping[str, Tensor]) -> None:
        form = step.target
        assert isinstance(form, Form)
        found = {self.match.canonical(key): entries[key] for key in entry.keys}
        for key in form.keys.values():
            value = found.get(self.match.canonical(key))
            if value is None or value.shape != self.held.tensors[key].shape:
                self._refuse(step.name, Why.MISFIT(how=f" in the model, by {key!r}"))
                return
        self.made.entries.update({key: found[self.match.canonical(key)] for key in form.keys.values()})
        self.errors[step.name] = entry.max_abs_error
        if step.name in self.exact:
            composed = _composed(form, self.made.entries) if entry.max_abs_error else self.plain[step.name]
            self.errors[step.name] = distance(self.exact[step.name], composed)

    # ---- what was done

    def _refuse(self, name: str, reason: Reason) -> None:
        self.made.refused.append(f"{name!r} {reason}")

    def _report(self, steps: Iterable[Step], given: Mapping[str, Any]) -> None:
        for step in steps:
            form = step.target
            keys = tuple(form.keys.values()) if isinstance(form, Form) else (form,)
            rounded = {key: _rounded(given[key], self.held.tensors.get(key)) for key in keys if key in given}
            error = self.errors.get(step.name, 0.0)
            if isinstance(form, str) and form in given and isinstance(given[form], Tensor):
                error = distance(given[form], rounded[form])
            elif isinstance(form, Form) and step.how in ("as is", "respelled"):
                error = self._error_of_parts(form, {key: given[key] for key in keys if key in given}, rounded)
            self.made.loaded.append(Loaded(step.name, step.how, keys, error))

    def _error_of_parts(self, form: Form, parts: Mapping[str, Any], rounded: Mapping[str, Any]) -> float:
        """Return how far a weight moves whose parts take the dtypes of the model."""
        if all(parts[key] is rounded[key] for key in parts):
            return 0.0
        if form.by is None:
            return max(distance(parts[key], rounded[key]) for key in parts)
        one, other = (_composed(form, tensors) for tensors in (parts, rounded))
        return distance(one, other)

    def _fill_ties(self, steps: Sequence[Step]) -> None:
        """Give each tensor of the model that has several names one value, or refuse it."""
        values: dict[int, tuple[str, Any]] = {}
        for key, value in self.made.entries.items():
            own = self.held.entries.get(key)
            if not isinstance(own, Tensor):
                continue
            first, known = values.setdefault(id(own), (key, value))
            if known is not value and storage_key(known) != storage_key(value) and not bits_equal(known, value):
                self.made.refused.append(f"{key!r} is the same tensor as {first!r} in the model, but not in the file")
        for step in steps:
            own = self.held.entries[step.name]
            if id(own) in values:
                self.made.entries[step.name] = values[id(own)][1]


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference of an element, whatever the dtypes."""
    if one is other or one.numel() == 0:
        return 0.0
    if one.is_complex() or other.is_complex():
        wide = (each.detach().to(torch.complex128) for each in (one, other))
        return change(*(torch.view_as_real(each.resolve_conj()) for each in wide))
    return change(one.detach().double(), other.detach().double())


def _rounded(value: Any, like: Tensor | None) -> Any:
    differs = like is not None and isinstance(value, Tensor) and value.dtype != like.dtype
    return value.detach().to(like.dtype) if differs and like is not None else value


def _composed(form: Form, tensors: Mapping[str, Tensor]) -> Tensor:
    parts = {part: tensors[key].detach() for part, key in form.keys.items()}
    if isinstance(form.by, Scheme):
        lead = parts[form.lead]
        return by_scheme(form.by, WeightSpec.of(lead, form.kept or ())).weight(parts)
    assert isinstance(form.by, Layout)
    return by_layout(Group(form.fqn, form.by.name, form.scheme, form.keys, form.kept), form.by).weight(parts)


def _unheld(weight: Tensor, form: Form) -> Reason | None:
    """Return why a scheme cannot hold a weight, or None."""
    scheme = form.by
    assert isinstance(scheme, Scheme)
    if scheme.shared:
        return None
    spec = WeightSpec.of(weight, form.kept or ())
    error = change(weight, scheme.compose(scheme.split(weight, spec), spec))
    if error and not scheme.preserving:
        return Why.LAYOUT(what=f"would change by {error:.3g}", layout=scheme.name, held="what it has normalized")
    return reason_against_change(weight, scheme, error)


def _api(step: Step) -> str:
    form = step.target
    return (form.by.api or "hook") if isinstance(form, Form) and isinstance(form.by, Layout) else "hook"


def _keys(step: Step) -> list[str]:
    return list(step.parted.groups[0].keys.values()) if step.parted else []


def _hint(step: Step, dim: DimOrDefault) -> DimOrDefault:
    """Return the kept dim with which a weight is read: what the user says, or else what the model does."""
    form = step.target
    open_ = step.parted is not None and isinstance(step.parted.by, Reason)
    if dim == "default" and open_ and isinstance(form, Form) and form.kept and len(form.kept) == 1:
        return form.kept[0]
    return dim


def _grouped(pairs: Iterable[tuple[Step, Any]]) -> dict[Any, list[Step]]:
    found: dict[Any, list[Step]] = defaultdict(list)
    for step, key in pairs:
        found[key].append(step)
    return found
