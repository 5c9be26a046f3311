"""Composing the parts in a checkpoint into plain weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import find_state_dicts
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of, tree_of
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Layout, Precision
from wnconvert.checkpoint.weights.folding import fold_in
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo
from wnconvert.checkpoint.weights.reading import Request
from wnconvert.device import DeviceLike, resolve_device
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.selection import Selection, WeightedOp

#: what is said where no key is that of a part
_LACKING = (
    "no key looks like a part of a weight, as 'conv.weight_g' does: the weights are plain, or their layout leaves no "
    "trace in keys (--preset)"
)


@torch.no_grad()
def fold(
    checkpoint: Checkpoint,
    *,
    selection: Selection | None = None,
    scheme: str | Scheme | None = None,
    dim: DimOrDefault = "default",
    ops: Sequence[WeightedOp] | None = None,
    only: Iterable[str] | None = None,
    presets: Iterable[str | Layout] = (),
    precision: Precision = "runtime",
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    record: bool = True,
    device: DeviceLike = None,
) -> Conversion:
    """Compose the parts in a checkpoint into plain weights.

    The scheme of a weight is told by the exact set of its parts, and by the manifest where the file has one. The
    manifest of the result says what each weight was that wnconvert had not split, so that `apply` can repeat it.

    Args:
        checkpoint: what to convert; it is not modified.
        selection: which weights.
        scheme: fold only this scheme, with these options, whatever the manifest says.
        dim: the kept dim; ``"default"`` is what the manifest says or the shapes show.
        ops: the weighted ops of the plain model; they decide which names are those of weights.
        only: full names of weights, as in a report; nothing else is folded.
        presets: layouts that leave no trace in the keys, by name (``"timm"``, ``"nfnet:gamma=1.7"``) or as
            `wnconvert.checkpoint.preset` makes them.
        precision: the bits that the layers compute here, or those of float64 rounded once.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        record: whether the result records what was folded, now and earlier.
        device: where weights are composed; by default on the CPU. The bits are those of its kernels.

    Raises:
        UnknownNameError: there is no such layout, or scheme.
        OptionError: there is no state dict at a path of ``within``, or no device is called so, or a preset cannot be
            used.
        DeviceError: there is no such device here.
        NothingToConvertError: no weight was converted.
    """
    where = resolve_device(device)
    before = manifest.read(checkpoint.metadata)
    by_name = None if ops is None else {name: op for op in ops for name in (op.fqn, *op.aliases)}
    resolved = None if scheme is None else resolve_scheme(scheme)
    request = Request(
        dim=dim,
        presets=presets,
        precision=precision,
        device=where,
        recorded=before,
        scheme=resolved,
        ops=by_name,
        selection=selection or Selection(),
        only=None if only is None else frozenset(only),
    )
    memo, found = Memo(), find_state_dicts(tree_of(checkpoint))
    outcomes = {id(each.entries): fold_in(each, request, memo) for each in chosen_state_dicts(found, within)}
    after = [
        replace(each, entries=outcomes[id(each.entries)].entries) if id(each.entries) in outcomes else each
        for each in found
    ]
    plain = {each.fqn(name) for each in after for name in each.tensors}
    entries = {fqn: entry for fqn, entry in before.items() if fqn not in plain}
    folded = {fqn: was for outcome in outcomes.values() for fqn, was in outcome.folded.items()}
    known = {**manifest.read_folded(checkpoint.metadata), **folded} if record else {}
    metadata = manifest.write(checkpoint.metadata, entries, known)
    return conversion_of(checkpoint, outcomes, metadata, optimizer=optimizer, lacking=_LACKING, device=where)
