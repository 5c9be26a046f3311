"""From one of torch's two interfaces to the other: the same numbers under other keys.

Weight norm and spectral norm have the same parts in both, so that a migration renames keys, and back again gives the
same file. Three other forms are brought to them, and there is no way back: spectral norm from before PyTorch 1.0, whose
vectors are solved as torch solves them; and the wrapper with ``weight_bar`` and BigGAN's layers, which make a power
iteration in every forward, so that the next vectors become the stored ones. The weight in evaluation has the same bits
before and after; what trains on makes other iterations than before. Weight standardization has no equal in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.content.optimizer_reset import Change
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts, substituted
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, DimHint, Group, Layout, direction, find_groups, spelling
from wnconvert.checkpoint.weights.outcome import Outcome, without_wrapper
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.device import Device, DeviceLike, resolve_device
from wnconvert.errors import CheckpointError, UnknownNameError, VerificationError
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import change

#: what is said where there is nothing to migrate.
_LACKING = (
    "no key looks like a weight norm or spectral norm; weight standardization, which torch has not, leaves no trace "
    "(fold it with --preset)"
)

#: torch's interfaces: hooks (``torch.nn.utils``) and parametrizations (``torch.nn.utils.parametrizations``).
Target: TypeAlias = Literal["hook", "parametrization"]


@torch.no_grad()
def migrate(
    checkpoint: Checkpoint,
    to: Target,
    *,
    selection: Selection | None = None,
    dim: DimHint = "default",
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Spell the weight norms and spectral norms of a checkpoint as one of torch's interfaces does.

    Args:
        checkpoint: what to convert; it is not modified.
        to: the interface whose models shall load the result.
        selection: which weights.
        dim: the kept dim of spectral norms from before PyTorch 1.0 that do not show it.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers where the parameters change their order: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``), as it is where they do not.
        device: where vectors are computed, and weights to compare them; by default on the CPU.

    Raises:
        OptionError: there is no state dict at a path of ``within``.
        DeviceError: there is no such device here.
        NothingToConvertError: nothing was migrated.
        CheckpointError: the file holds a whole model.
        VerificationError: weights that must have the same bits have not.
    """
    where = resolve_device(device)
    if isinstance(checkpoint.content, torch.nn.Module):
        raise CheckpointError("the file holds a whole model, not a state dict; migrate its state dict")
    recorded, chosen = manifest.read(checkpoint.metadata), selection or Selection()
    found = chosen_state_dicts(find_state_dicts(checkpoint.content), within)
    outcomes = {id(each.entries): _migrate_in(each, to, chosen, dim, recorded, where) for each in found}
    conversion = conversion_of(
        checkpoint, outcomes, optimizer=optimizer, verb="migrate", lacking=_LACKING, device=where
    )
    if conversion.report.exact:
        comparison = verify(checkpoint, conversion.checkpoint, reading=Reading(dim, device=where))
        if not comparison.equal:
            raise VerificationError(f"the migrated weights are not those of the input: {comparison.summary}")
    return conversion


def _migrate_in(
    state_dict: StateDict, to: Target, selection: Selection, dim: DimHint, recorded: manifest.Manifest, device: Device
) -> Outcome:
    """Give the chosen weights of a state dict other keys; what has no keys for other numbers stays as it is."""
    outcome = Outcome(state_dict.entries, same_parameters=True)
    new: dict[str, dict[str, Tensor]] = {}
    for group in find_groups(state_dict.tensors, dim=dim):
        fqn, scheme, own = state_dict.fqn(group.stem), str(group.scheme), LAYOUTS.get(group.layout)()
        if reason := _reason_against(group, to, state_dict, selection, recorded):
            outcome.skipped.append(Skipped(fqn, "", reason))
            continue
        layout = spelling(to, scheme)
        parts = {part: state_dict.tensors[key].detach() for part, key in group.keys.items()}
        moved = device.run(own.migrated, group, parts)
        if moved is None:
            outcome.skipped.append(Skipped(fqn, "", Why.LAYOUT(layout=own.title, target=to)))
            continue
        there = {part: parts[old] for part, old in moved.parts.items()} | dict(moved.values)
        if scheme == "weight_norm" and not _is_torchs_magnitude(there["g"], there["v"], group.kept or ()):
            outcome.skipped.append(Skipped(fqn, "", Why.LAYOUT(lacking=f"weight norm with kept dims {group.kept}")))
            continue
        stem, siblings = without_wrapper(group, state_dict)
        placed: dict[str, dict[str, Tensor]] = {key: {} for key in group.keys.values()}
        *_, last = moved.parts.values()  # what is new stands behind it
        for part in there:
            key = group.keys[moved.parts.get(part, last)]
            value = moved.values[part] if part in moved.values else state_dict.entries[key]
            placed[key][layout.spell(stem, scheme, part)] = value
        names = [name for entries in placed.values() for name in entries]
        if taken := [name for name in names if name in state_dict.entries and name not in placed]:
            outcome.skipped.append(Skipped(fqn, "", Why.NAME_TAKEN(key=taken[0])))
            continue
        new |= siblings | placed
        outcome.notes += [moved.note] if moved.note else []
        outcome.same_parameters &= not (moved.reordered or _has_children(group.stem, state_dict))
        run = device.run
        error = change(run(own.compose, group, parts), run(layout.compose, group, there)) if moved.values else 0.0
        spelled = Group(stem, layout.name, scheme, {part: layout.spell(stem, scheme, part) for part in there})
        trained = own.trained(group)
        buffers = tuple(key for key in group.keys.values() if key not in trained)
        outcome.parameters.append(Change(trained, layout.trained(spelled), buffers))
        keys = tuple(map(state_dict.fqn, names))
        rank = state_dict.tensors[group.keys[direction(group, own)]].ndim
        dims = None if group.kept is None else tuple(dim for dim in range(rank) if dim not in group.kept)
        outcome.converted.append(Converted(fqn, "", scheme, keys, dims, "file", error, group.kept))
    outcome.entries = substituted(state_dict.entries, new)
    return outcome


def _reason_against(
    group: Group, to: Target, state_dict: StateDict, selection: Selection, recorded: manifest.Manifest
) -> Reason | None:
    """Return why a group stays as it is, or None."""
    fqn = state_dict.fqn(group.stem)
    known = recorded.get(fqn)
    scheme = known.scheme if known is not None and known.is_of(group.keys) else None
    layout: type[Layout] = LAYOUTS.get(group.layout)
    shape = tuple(next(iter(state_dict.tensors[key] for key in group.keys.values())).shape)
    names = (fqn,) if state_dict.path else ()
    if against := selection.reason_against(WeightedOp(group.stem, (), shape, torch.float32, None, names)):
        return against
    if layout.unknown_to_torch:
        what = f"{layout.unknown_to_torch}, and so no {to} of {layout.title}; fold it"
        return Why.LAYOUT(lacking=what)
    if group.scheme is None or (group.problem and layout.api is None):  # torch's own are only renamed
        return group.problem or Why.SCHEME_UNKNOWN()
    if layout.api == to:
        return Why.ALREADY_SPLIT(form=f"spelled as a {to}")
    if scheme is not None and not _is_torchs(scheme, group):
        return Why.LAYOUT(lacking=f"{to} of {scheme.name} with these options")
    try:
        spelling(to, group.scheme)
    except UnknownNameError:
        return Why.LAYOUT(lacking=f"{to} of {group.scheme}")
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
