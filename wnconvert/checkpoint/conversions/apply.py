"""Splitting the plain weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import find_state_dicts
from wnconvert.checkpoint.conversions import reference
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of, fitting, tree_of
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.weights.applying import apply_to
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo
from wnconvert.device import DeviceLike, resolve_device
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.selection import Selection, WeightedOp


@torch.no_grad()
def apply(
    checkpoint: Checkpoint,
    scheme: str | Scheme | None = None,
    *,
    dim: DimOrDefault = "default",
    selection: Selection | None = None,
    ops: Sequence[WeightedOp] | None = None,
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Split the plain weights of a checkpoint into the parts of a scheme.

    A weight ``conv.weight`` becomes ``conv.weight_g`` and ``conv.weight_v``, at the same place. Each is composed again
    at once and compared; where a function-preserving scheme does not give back the very bits, the weight is skipped.

    A checkpoint that records what was folded in it gets that back, unless a scheme, a dim, a selection or ops are
    given; see `wnconvert.checkpoint.conversions.reference.replay`.

    Args:
        checkpoint: what to convert; it is not modified.
        scheme: a scheme, or the name of one; by default what the checkpoint records, or else ``"weight_norm"``.
        dim: the kept dim; ``"default"`` is the scheme's own.
        selection: which weights.
        ops: the weighted ops of the model that the checkpoint belongs to. They decide which keys are weights, and only
            state dicts that hold all of them are converted. Without them, the rule of
            `wnconvert.checkpoint.content.keys` does.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are split and composed; by default on the CPU. Only there every bit is sure to come back;
            the file records it.

    Raises:
        OptionError: there is no state dict at a path of ``within``, or no device is called so.
        DeviceError: there is no such device here.
        NothingToConvertError: no weight was converted.
    """
    where = resolve_device(device)
    chosen, memo, notes = selection or Selection(), Memo(), []
    if scheme is None and manifest.read_folded(checkpoint.metadata):
        if reference.replayed_schemes(checkpoint, dim=dim, selection=chosen, ops=ops):
            return reference.replay(checkpoint, within=within, optimizer=optimizer, device=where)
        if reference.replayed_schemes(checkpoint):
            notes.append("the file records what was folded; choose no weights and no dim to have exactly that back")
        else:
            notes.append("what the file records as folded cannot be applied again; this is weight_norm instead")
    resolved = resolve_scheme(scheme or "weight_norm")
    before = manifest.read(checkpoint.metadata)
    found, misfits = fitting(chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within), ops)
    outcomes = {id(each.entries): apply_to(each, resolved, dim, chosen, ops, memo, where) for each in found}
    entries = {**before, **{fqn: entry for outcome in outcomes.values() for fqn, entry in outcome.manifest.items()}}
    metadata = manifest.write(checkpoint.metadata, entries)
    return conversion_of(checkpoint, outcomes, metadata, [*notes, *misfits], optimizer=optimizer, device=where)
