"""LoRA and DoRA adapters of PEFT over a base checkpoint: folded into its weights, or made torch's weight norm."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wnconvert.checkpoint.adapters.peft import Adapter, read_adapter, separated
from wnconvert.checkpoint.content.deferred import defer
from wnconvert.checkpoint.content.keys import part_names
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts, storage_key, substituted
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of
from wnconvert.checkpoint.conversions.migration import Target
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Group, Precision, find_groups, spelling
from wnconvert.checkpoint.layouts.dora import Dora, FactorKey, is_adapter
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.checkpoint.weights.outcome import Outcome, as_entries, located
from wnconvert.device import Device, DeviceLike, resolve_device
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.reasons import Reason
from wnconvert.report import Converted, Skipped
from wnconvert.selection import Selection, WeightedOp

#: an adapter folder, its file of tensors, its config alone, or what the config says.
AdapterSource: TypeAlias = str | os.PathLike[str] | Dora
#: what training wrappers put before names.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod)\.)*")
#: the entries that take the place of a weight of the base, made of a group and its parts.
_Make: TypeAlias = Callable[[Group, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass
class _Place:
    """A state dict of the base, with the adapter that was fitted to it.

    Attributes:
        state_dict: where it is.
        entries: its entries under the names of the plain model.
        adapter: the adapter, with the names of this base.
        base: the tensors among the entries, before the adapter came.
        notes: what had to be found out.
    """

    state_dict: StateDict
    entries: dict[Any, Any]
    adapter: Adapter
    base: Mapping[str, Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the base and of the adapter."""
        return {**StateDict((), self.entries).tensors, **self.adapter.factors}


def fold_adapter(
    base: Checkpoint,
    adapter: AdapterSource,
    *,
    selection: Selection | None = None,
    precision: Precision = "runtime",
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Compose the weights of a base checkpoint with an adapter, as `merge_and_unload` of PEFT merges them.

    Tensors that the adapter holds whole (``modules_to_save``, biases) take the place of those of the base.

    Args:
        base: a checkpoint with the base in one of its state dicts, or with the base and the adapter in one, as a live
            PEFT model has them; it is not modified.
        adapter: the folder that `save_pretrained` of PEFT wrote, or its file of tensors with the config beside it. For
            a base with the adapter in it, the ``adapter_config.json`` alone, or the layout with its options.
        selection: which weights; the factors of the adapter have no effect on the others.
        precision: the bits that PEFT computes here, or those of float64 rounded once.
        within: dotted paths; the base is at one of these places, or below.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are computed; by default on the CPU.

    Raises:
        CheckpointError: there is no adapter of LoRA or DoRA, or it does not fit the base.
        OptionError: there is no state dict at a path of ``within``.
        NothingToConvertError: no weight was converted.
    """
    where, place = resolve_device(device), _place(base, adapter, within)
    layout = place.adapter.layout

    def make(group: Group, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {group.stem: _deferred(lambda: by_layout(group, layout).weight(parts, precision, device=where), parts)}

    return _converted(base, place, make, selection or Selection(), optimizer, where)


def migrate_adapter(
    base: Checkpoint,
    adapter: AdapterSource,
    to: Target,
    *,
    selection: Selection | None = None,
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Spell DoRA as torch's weight norm: the direction is W + s B A, and the magnitude stays.

    What the adapter changes without a magnitude is folded. The arguments are those of `fold_adapter`.

    Args:
        base: the base, or the base and the adapter in one.
        adapter: the adapter.
        to: the interface whose models shall load the result.
        selection: which weights; the factors of the adapter have no effect on the others.
        within: dotted paths; the base is at one of these places, or below.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are computed; by default on the CPU.

    Raises:
        CheckpointError: there is no adapter of DoRA, or it does not fit the base.
        OptionError: there is no state dict at a path of ``within``.
        NothingToConvertError: no weight was converted.
    """
    where, place = resolve_device(device), _place(base, adapter, within)
    layout, target = place.adapter.layout, spelling(to, "weight_norm")
    if not any(known.part == "magnitude" for known in map(FactorKey.of, place.adapter.factors) if known):
        raise NothingToConvertError("nothing to migrate: the adapter has no magnitudes, so it is LoRA; fold it")

    def make(group: Group, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if group.scheme != "dora":
            return {group.stem: _deferred(lambda: by_layout(group, layout).weight(parts, device=where), parts)}
        g, v = (target.spell(group.stem, "weight_norm", part) for part in "gv")
        return {
            g: where.run(layout.as_weight_norm, group, parts)["g"],
            v: _deferred(lambda: where.run(layout.as_weight_norm, group, parts)["v"], parts),
        }

    return _converted(base, place, make, selection or Selection(), optimizer, where)


@torch.no_grad()
def _converted(
    base: Checkpoint, place: _Place, make: _Make, selection: Selection, optimizer: OptimizerState, device: Device
) -> Conversion:
    layout, tensors, state_dict = place.adapter.layout, place.tensors, place.state_dict
    groups = [group for group in find_groups(tensors, presets=[layout]) if group.layout == Dora.name]
    new: dict[str, dict[str, Tensor]] = {}
    converted, skipped, broken = [], [], []
    for group in groups:
        fqn = state_dict.fqn(group.stem)
        if reason := _reason_against(group, tensors, state_dict, selection):
            skipped.append(Skipped(fqn, "", reason))
            continue
        if group.problem:
            raise CheckpointError(f"the adapter cannot be folded: {fqn!r}: {group.problem}")
        parts = {part: tensors[key].detach() for part, key in group.keys.items()}
        new[group.stem] = as_entries(make(group, parts), tensors[group.stem])
        if taken := [key for key in new[group.stem] if key != group.stem and key in place.entries]:
            raise CheckpointError(f"the key {taken[0]!r} is taken in the base")
        if not by_layout(group, layout).weight(parts, device=device).isfinite().all():
            broken.append(fqn)
        reduced = tuple(dim for dim in range(parts["weight"].ndim) if dim not in (group.kept or ()))
        dims = reduced if group.scheme == "dora" else None
        keys = tuple(map(state_dict.fqn, group.keys.values()))
        kept = None if dims is None else group.kept
        plain = group.stem in new[group.stem]
        converted.append(Converted(fqn, "", str(group.scheme), keys, dims, "file", kept_dim=kept, plain=plain))
    outcome = Outcome(substituted(place.entries, new), converted, skipped)
    notes = [*place.notes, *_ties(new, place), *_broken(broken)]
    return conversion_of(base, {id(state_dict.entries): outcome}, None, notes, optimizer=optimizer, device=device)


def _place(base: Checkpoint, source: AdapterSource, within: Sequence[str]) -> _Place:
    """Return where the adapter belongs, and its tensors under the names there."""
    if isinstance(base.content, torch.nn.Module):
        raise CheckpointError("the file holds a whole model, not a state dict; fold its state dict")
    adapter = Adapter(source) if isinstance(source, Dora) else read_adapter(source)
    found = chosen_state_dicts(find_state_dicts(base.content), within)
    if not found:
        raise CheckpointError("the base holds no dict of tensors; give the checkpoint of the base")
    live = [each for each in found if is_adapter(each.tensors)]
    if adapter.factors:
        _require_flat(adapter.factors)
        if live:
            key = next(key for key in live[0].tensors if FactorKey.of(key))
            raise CheckpointError(f"the base has a key of an adapter, {key!r}; give its adapter_config.json alone")
        return _fitted(found, adapter)
    if len(live) != 1:
        places = ", ".join(repr(str(each)) for each in live)
        raise CheckpointError(
            f"the file holds adapters in {places}; choose one (--only)"
            if live
            else "the file holds no adapter; give its folder"
        )
    (own,) = live
    renamed, factors = separated(own.tensors)
    _require_flat(factors)
    names = {key: renamed.get(key, key) if isinstance(key, str) else key for key in own.entries}
    entries = {name: own.entries[key] for key, name in names.items() if name is not None}
    if len(entries) != sum(name is not None for name in names.values()):
        raise CheckpointError("several keys of the file mean one tensor of the plain model; save the adapter alone")
    return _Place(own, entries, replace(adapter, factors=factors), StateDict((), entries).tensors)


def _require_flat(factors: Mapping[str, Tensor]) -> None:
    """Refuse adapters inside of adapted modules: PEFT adds that of ``out_proj`` in an attention twice."""
    for known in map(FactorKey.of, factors):
        if known and ".base_layer." in f"{known.module}.":
            raise CheckpointError(
                f"the adapter is over MultiheadAttention, or over parameters ({known.module!r}); merge it with peft"
            )


def _fitted(found: Sequence[StateDict], adapter: Adapter) -> _Place:
    """Return the only state dict that the adapter fits, exactly or but for what is before its names."""
    names = list(dict.fromkeys(f"{known.module}.weight" for known in map(FactorKey.of, adapter.factors) if known))
    exact = [(each, "", "") for each in found if all(name in each.tensors for name in names)]
    fits = exact or [(each, *fit) for each in found for fit in _alignments(names, each.tensors)]
    if not fits:
        raise CheckpointError(_misfit(names, found))
    if len(fits) > 1:
        places = ", ".join(repr(each.fqn(added).rstrip(".")) for each, _, added in fits)
        way = "choose one (--only)" if len({id(each) for each, *_ in fits}) > 1 else "save the part that is meant alone"
        raise CheckpointError(f"the adapter fits several places of the base ({places}); {way}")
    state_dict, dropped, added = fits[0]
    layout = replace(adapter.layout, dropped=dropped, added=added)
    fitted = replace(adapter, layout=layout)
    place = _Place(state_dict, dict(state_dict.entries), fitted, state_dict.tensors)
    _put_whole(place, dropped)
    return place


def _alignments(names: Sequence[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield what all names must lose and get at their begin to be keys of a state dict.

    Wrappers such as ``module.`` come before the names; a model that is part of a larger one has one word less.
    """
    word = names[0].partition(".")[0] + "."
    shorter = all(name.startswith(word) and name.count(".") > 1 for name in names)
    for dropped in ("", word) if shorter else ("",):
        rest = names[0].removeprefix(dropped)
        for key in (key for key in tensors if key == rest or key.endswith(f".{rest}")):
            added = key.removesuffix(rest)
            if dropped and not _WRAPPERS.fullmatch(added):
                continue
            if all(added + name.removeprefix(dropped) in tensors for name in names):
                yield dropped, added


def _misfit(names: Sequence[str], found: Sequence[StateDict]) -> str:
    best = max(found, key=lambda each: sum(name in each.tensors for name in names))
    missing = next(name for name in names if name not in best.tensors)
    module = missing.removesuffix(".weight")
    parts = (f"{missing}_{part}" for part in part_names())
    if any(key in best.tensors for key in parts) or any(
        key.startswith(f"{module}.parametrizations.weight.") for key in best.tensors
    ):
        return f"{best.fqn(missing)!r} of the base is under a normalization; fold that first"
    return (
        f"the adapter does not fit the base, which has no {best.fqn(missing)!r}; "
        "if the model ties it with another weight, save the base untied"
    )


def _put_whole(place: _Place, dropped: str) -> None:
    """Put the tensors that the adapter holds whole in the place of those of the base."""
    adapter, tensors = place.adapter, place.base
    if replaced := [place.state_dict.fqn(key) for key in map(adapter.layout.in_base, adapter.whole) if key in tensors]:
        place.notes.append(f"{_some(replaced)} of the base: replaced by what the adapter holds")
    for name, tensor in adapter.whole.items():
        key = adapter.layout.in_base(name)
        if key in tensors:
            dtype = tensors[key].dtype
            place.entries[key] = as_entries({key: tensor.to(dtype)}, tensors[key])[key]
            continue
        if not set(adapter.new) & set(name.split(".")) or not name.startswith(dropped):
            raise CheckpointError(f"the adapter does not fit the base, which has no {key!r}")
        place.entries[key] = tensor
        place.notes.append(f"{place.state_dict.fqn(key)!r}, which the base has not, is added from the adapter")


def _reason_against(
    group: Group, tensors: Mapping[str, Tensor], state_dict: StateDict, selection: Selection
) -> Reason | None:
    """Return why a group is not chosen; a bias is where its weight is."""
    weight = f"{group.stem.rpartition('.')[0]}.weight" if "shift" in group.keys else group.stem
    known = tensors.get(weight)
    shape, dtype = ((), torch.float32) if known is None else (tuple(known.shape), known.dtype)
    return selection.reason_against(located(WeightedOp(weight, (), shape, dtype), state_dict))


def _deferred(make: Callable[[], Tensor], parts: Mapping[str, Tensor]) -> Tensor:
    shown = torch.empty_like(parts["weight"], device="meta")
    return defer(make, shown, list(parts.values()))


def _ties(new: Mapping[str, Mapping[str, Tensor]], place: _Place) -> Iterator[str]:
    """Yield what was tied in the base and is so no more: live, PEFT adapts one name, but merges into both."""
    tensors = place.base
    changed = [key for key in (*new, *map(place.adapter.layout.in_base, place.adapter.whole)) if key in tensors]
    places = {storage_key(tensors[key]): key for key in changed}
    tied = [(places.get(storage_key(tensor)), key) for key, tensor in tensors.items()]
    untied = [(one, other) for one, other in tied if one is not None and one != other]
    for one, other in untied:
        yield f"{one!r} and {other!r} are tied in the base, and no more in the result; load it into an untied model"
    if not untied and any(known and known.table for known in map(FactorKey.of, place.adapter.factors)):
        yield "if the model ties its output layer to the adapted embedding, that changes with it, as when PEFT merges"


def _broken(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"not finite everywhere: {_some(names)}; where W + s B A is zero, PEFT divides by zero, and so do we"


def _some(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
