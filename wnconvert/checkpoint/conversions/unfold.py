"""Spelling the plain weights of a checkpoint as the parts of a layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import find_state_dicts
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of, fitting, tree_of
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Layout, resolve_layout, scheme_of
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo
from wnconvert.checkpoint.weights.unfolding import Unfolding, unfold_in
from wnconvert.device import DeviceLike, resolve_device
from wnconvert.selection import Selection, WeightedOp


@torch.no_grad()
def unfold(
    checkpoint: Checkpoint,
    layout: str | Layout,
    *,
    scheme: str | None = None,
    dim: DimOrDefault = "default",
    selection: Selection | None = None,
    ops: Sequence[WeightedOp] | None = None,
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Spell the plain weights of a checkpoint as the parts of a layout, so that its own modules load the file.

    Each is composed again at once by the calls of the live module. A weight that comes back up to rounding is
    converted, with the error in the report; one that the layout cannot hold is skipped. Nothing is recorded in the
    file: keys, or the same preset, tell how to fold it.

    Args:
        checkpoint: what to convert; it is not modified.
        layout: a layout, or the name of one, see `wnconvert.checkpoint.layout.read_preset`.
        scheme: one of the schemes that the layout can spell; by default its first.
        dim: the kept dim; ``"default"`` is the scheme's own. Only torch's own layouts let one choose.
        selection: which weights.
        ops: the weighted ops of the model that the checkpoint belongs to, see `apply`.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are computed; by default on the CPU.

    Raises:
        UnknownNameError: there is no such layout.
        OptionError: the layout cannot be written, or not so; or there is no state dict at a path of ``within``.
        DeviceError: there is no such device here.
        NothingToConvertError: no weight was converted.
    """
    where = resolve_device(device)
    resolved = resolve_layout(layout)
    wanted = Unfolding(resolved, scheme_of(resolved, scheme, dim), dim, selection or Selection(), ops, device=where)
    found, notes = fitting(chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within), ops)
    memo = Memo()
    outcomes = {id(each.entries): unfold_in(each, wanted, memo) for each in found}
    return conversion_of(checkpoint, outcomes, None, notes, optimizer=optimizer, device=where)
