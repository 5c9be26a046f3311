"""From one of torch's two interfaces to the other: the same numbers under other keys.

Weight norm and spectral norm have the same parts in both, so that a migration renames keys, and back again gives the
same file. Three other forms are brought to them, and there is no way back: spectral norm from before PyTorch 1.0, whose
vectors are solved as torch solves them; and the wrapper with ``weight_bar`` and BigGAN's layers, which make a power
iteration in every forward, so that the next vectors become the stored ones. The weight in evaluation has the same bits
before and after; what trains on makes other iterations than before. Weight standardization has no equal in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.optimizers import stale
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts, rebuild
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, summary
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, DimHint, Group, Layout, find_groups, spelling
from wnconvert.checkpoint.pickles.inert import require_known
from wnconvert.errors import CheckpointError, NothingToConvertError, UnknownNameError
from wnconvert.reasons import Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import change

#: torch's interfaces: hooks (``torch.nn.utils``) and parametrizations (``torch.nn.utils.parametrizations``).
Target: TypeAlias = Literal["hook", "parametrization"]


@dataclass
class _Plan:
    """What becomes of the entries of one state dict: key -> new key, and the values that change."""

    keys: dict[str, str | None] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    #: a new entry that stands behind the one of that key.
    behind: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    converted: list[Converted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: whether the parameters of the model may come in another order, which optimizers tell them by.
    reordered: bool = False


@torch.no_grad()
def migrate(
    checkpoint: Checkpoint,
    to: Target,
    *,
    selection: Selection | None = None,
    dim: DimHint = "default",
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
) -> Conversion:
    """Spell the weight norms and spectral norms of a checkpoint as one of torch's interfaces does.

    Args:
        checkpoint: what to convert; it is not modified.
        to: the interface whose models shall load the result.
        selection: which weights.
        dim: the kept dim of spectral norms from before PyTorch 1.0 that do not show it.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers even where the parameters change their order; where they do not,
            it is kept anyway.

    Raises:
        OptionError: there is no state dict at a path of ``within``.
        NothingToConvertError: nothing was migrated.
        CheckpointError: the file holds a whole model.
    """
    if isinstance(checkpoint.content, torch.nn.Module):
        raise CheckpointError("the file holds a whole model, not a state dict; migrate its state dict")
    recorded = manifest.read(checkpoint.metadata)
    chosen = selection or Selection()
    found = find_state_dicts(checkpoint.content)
    asked = {id(each.entries) for each in chosen_state_dicts(found, within)}
    plans = {
        id(each.entries): _plan(each, to, chosen, dim, recorded) if id(each.entries) in asked else _Plan()
        for each in found
    }
    reports = [Report(tuple(p.converted), tuple(p.skipped), tuple(dict.fromkeys(p.notes))) for p in plans.values()]
    reordered = [each for each in found if plans[id(each.entries)].reordered]
    others = [each for each in found if not plans[id(each.entries)].reordered]
    old = stale(checkpoint.content, reordered, others) if reordered else []
    what = "still belongs to the parameters as they were" if keep_optimizers else "is left out, for it is stale"
    notes = tuple(f"the optimizer state in {str(each)!r} {what}" for each in old)
    report = reduce(Report.__add__, reports, Report(notes=(*checkpoint.notes, *notes)))
    if not report.modified:
        require_known(checkpoint.content)
        reasons = summary(report.skipped) or (
            "no key looks like a weight norm or spectral norm; weight standardization, which torch has not, leaves no "
            "trace (fold it with --preset)"
        )
        raise NothingToConvertError(f"nothing to migrate: {reasons}")
    replacements = {id(each.entries): _entries(each, plans[id(each.entries)]) for each in found}
    dropped = () if keep_optimizers else {id(each.entries) for each in old}
    content = rebuild(checkpoint.content, replacements, dropped)
    require_known(content)
    return Conversion(replace(checkpoint, content=content, notes=()), report)


def _plan(state_dict: StateDict, to: Target, selection: Selection, dim: DimHint, recorded: manifest.Manifest) -> _Plan:
    plan = _Plan()
    tensors = state_dict.tensors
    for group in find_groups(tensors, dim=dim):
        fqn = state_dict.fqn(group.stem)
        reason = _reason_against(group, to, state_dict, selection, recorded)
        if isinstance(reason, Skipped):
            plan.skipped.append(reason)
            continue
        scheme, own = str(group.scheme), LAYOUTS.get(group.layout)()
        layout = spelling(to, scheme)
        parts = {part: tensors[key].detach() for part, key in group.keys.items()}
        moved = own.migrated(group, parts)
        if moved is None:
            plan.skipped.append(Skipped(fqn, "", Why.LAYOUT(layout=own.title, target=to)))
            continue
        keys, values = {part: group.keys[old] for part, old in moved.parts.items()}, moved.values
        there = {part: parts[old] for part, old in moved.parts.items()} | dict(values)
        if scheme == "weight_norm" and not _is_torchs_magnitude(there["g"], there["v"], group.kept or ()):
            what = f"weight norm with kept dims {group.kept}"
            plan.skipped.append(Skipped(fqn, "", Why.LAYOUT(lacking=what)))
            continue
        stem, siblings = _unwrapped(group, state_dict)
        new = {key: layout.spell(stem, scheme, part) for part, key in keys.items()}
        added = {part: layout.spell(stem, scheme, part) for part in values if part not in keys}
        before = set(group.keys.values())
        taken = [key for key in (*new.values(), *added.values()) if key in state_dict.entries and key not in before]
        if taken:
            plan.skipped.append(Skipped(fqn, "", Why.NAME_TAKEN(key=taken[0])))
            continue
        plan.keys.update(siblings)
        plan.keys.update(dict.fromkeys(group.keys.values()))
        plan.keys.update(new)
        plan.values.update({new[key]: values[part] for part, key in keys.items() if part in values})
        plan.behind.update({list(keys.values())[-1]: (added[part], values[part]) for part in added})
        plan.notes += [moved.note] if moved.note else []
        plan.reordered |= moved.reordered or _has_children(group.stem, state_dict)
        names = tuple(state_dict.fqn(key) for key in (*new.values(), *added.values()))
        error = change(own.compose(group, parts), layout.compose(group, there)) if values else 0.0
        plan.converted.append(Converted(fqn, "", scheme, names, how="file", max_abs_error=error))
    return plan


def _reason_against(
    group: Group, to: Target, state_dict: StateDict, selection: Selection, recorded: manifest.Manifest
) -> Skipped | None:
    """Return why a group stays as it is, or None."""
    fqn = state_dict.fqn(group.stem)
    scheme = recorded[fqn].scheme if fqn in recorded else None
    layout: type[Layout] = LAYOUTS.get(group.layout)
    shape = tuple(next(iter(state_dict.tensors[key] for key in group.keys.values())).shape)
    names = (fqn,) if state_dict.path else ()
    if against := selection.reason_against(WeightedOp(group.stem, (), shape, torch.float32, None, names)):
        return Skipped(fqn, "", against)
    if layout.unknown_to_torch:
        what = f"{layout.unknown_to_torch}, and so no {to} of {layout.title}; fold it"
        return Skipped(fqn, "", Why.LAYOUT(lacking=what))
    if group.scheme is None or (group.problem and layout.api is None):  # torch's own are only renamed
        return Skipped(fqn, "", group.problem or Why.SCHEME_UNKNOWN())
    if layout.api == to:
        return Skipped(fqn, "", Why.ALREADY_SPLIT(form=f"spelled as a {to}"))
    if scheme is not None and not _is_torchs(scheme, group):
        return Skipped(fqn, "", Why.LAYOUT(lacking=f"{to} of {scheme.name} with these options"))
    try:
        spelling(to, group.scheme)
    except UnknownNameError:
        return Skipped(fqn, "", Why.LAYOUT(lacking=f"{to} of {group.scheme}"))
    return None


def _is_torchs(scheme: object, group: Group) -> bool:
    return scheme == WeightNorm() if group.scheme == "weight_norm" else getattr(scheme, "name", None) == group.scheme


def _is_torchs_magnitude(g: Tensor, v: Tensor, kept: tuple[int, ...]) -> bool:
    """Return whether torch's modules can hold the magnitude: they keep one dim, or none."""
    return len(kept) <= 1 and WeightSpec(tuple(v.shape), kept).kept_shape == tuple(g.shape)


def _has_children(stem: str, state_dict: StateDict) -> bool:
    """Return whether a module has parts of its own: parametrizations are behind them, parts of hooks before."""
    module = stem[: len(stem) - len(stem.rpartition(".")[2])]
    inner = (key[len(module) :] for key in state_dict.under(module))
    return any("." in key and not key.startswith("parametrizations.") for key in inner)


def _unwrapped(group: Group, state_dict: StateDict) -> tuple[str, dict[str, str | None]]:
    """Return the stem without the wrapper that only the old form has, and the other keys without it."""
    prefixes = LAYOUTS.get(group.layout)().unwrapped(group.stem)
    if prefixes is None:
        return group.stem, {}
    old, new = prefixes
    stripped: dict[str, str | None] = {key: new + key[len(old) :] for key in state_dict.under(old)}
    if any(name in state_dict.tensors for name in stripped.values()):
        return group.stem, {}
    return new + group.stem[len(old) :], stripped


def _entries(state_dict: StateDict, plan: _Plan) -> dict[Any, Any]:
    entries: dict[Any, Any] = {}
    for key, value in state_dict.entries.items():
        name = plan.keys.get(key, key)
        if name is not None:
            entries[name] = plan.values.get(name, value) if isinstance(name, str) else value
        if key in plan.behind:
            added, tensor = plan.behind[key]
            entries[added] = tensor
    return entries
