"""Apply and fold on live modules: the model stays the object it was."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from wnconvert.graph.entries import Edits, Entries, join
from wnconvert.graph.splitting import Splitter
from wnconvert.modules.computed import HOOK, IN_PLACE, PARAMETRIZATION, computed_weights
from wnconvert.modules.normalized import Normalization, compose, denormalize, normalizations, normalize
from wnconvert.modules.weights import LiveWeight, is_below, live_weights
from wnconvert.report import Converted, Report, Skipped
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp

#: for the report: how these conversions are made, in a model without a graph and in what a graph does not look into
HOW = "in place"
HOW_OPAQUE = "opaque region"
_ALREADY = {
    HOOK: "already computed by a hook of torch.nn.utils",
    PARAMETRIZATION: "already parametrized by torch.nn.utils.parametrize",
    IN_PLACE: "already composed in place",
}


@torch.no_grad()
def apply_in_place(
    model: nn.Module,
    scheme: Scheme,
    dim: Dim,
    selection: Selection,
    paths: set[str] | None = None,
    weights: Iterable[LiveWeight] | None = None,
) -> Report:
    """Give the weights of live modules a scheme: their parts take their place, and reading them composes them.

    Args:
        model: the model; it is changed.
        scheme: the scheme. One that needs all weights of the model together cannot be read weight by weight.
        dim: the kept dim.
        selection: which weights. A parameter of a class that wnconvert does not know is converted only by its name.
        paths: dotted names of the modules to look into; all by default.
        weights: what to convert, instead of what the classes of the modules tell.
    """
    splitter = Splitter(model, scheme, dim, selection)
    entries = Entries(model)
    already = [
        Skipped(weight.fqn, "", _ALREADY[weight.by], already=True)
        for path, module in model.named_modules()
        if paths is None or is_below(path, paths)
        for weight in computed_weights(path, module)
    ]
    for weight in live_weights(entries, paths) if weights is None else weights:
        splitter.add(weight.info, weight.tensor, weight.owners, _obstacle(weight, scheme, selection))
    splits = splitter.verified()
    splitter.register(splits)
    for split in splits:
        for owner in split.owners:
            normalize(owner.module, {owner.name: Normalization(scheme, split.spec)})
    how = HOW if paths is None else HOW_OPAQUE
    converted = tuple(splitter.converted(split, how) for split in splits)
    return Report(converted, (*splitter.skipped, *already))


@torch.no_grad()
def fold_in_place(model: nn.Module, selection: Selection) -> Report:
    """Put plain weights in the place of the parts of weights that `apply_in_place` made, with the bits they compose to.

    Args:
        model: the model; it is changed.
        selection: which weights.
    """
    converted: list[Converted] = []
    skipped: list[Skipped] = []
    values: dict[tuple[int, ...], nn.Parameter] = {}
    edits = Edits()
    folded: list[tuple[nn.Module, set[str]]] = []
    for path, module in model.named_modules():
        names = set()
        for name, kept in normalizations(module).items():
            fqn = join(path, name)
            info = WeightedOp(fqn, (), kept.spec.shape, kept.spec.dtype)
            if reason := selection.reason_against(info):
                skipped.append(Skipped(fqn, "", reason))
                continue
            parts = [f"{name}_{part}" for part in kept.scheme.parts]
            entries = {**module._parameters, **module._buffers}
            tensors = [entries[part] for part in parts]
            key = tuple(map(id, tensors))
            if key not in values:
                trains = any(tensor.requires_grad for tensor in tensors if tensor is not None)
                values[key] = nn.Parameter(_evaluate(module, name), trains)
                converted.append(Converted(fqn, "", kept.scheme.name, tuple(join(path, p) for p in parts), how=HOW))
            edits.replace(module, [part for part in entries if part in parts], {name: values[key]})
            names.add(name)
        if names:
            folded.append((module, names))
    for module, names in folded:
        denormalize(module, names)
    edits.commit()
    for module, _ in folded:
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return Report(tuple(converted), tuple(skipped))


def _evaluate(module: nn.Module, name: str) -> torch.Tensor:
    """Compose a weight as evaluation does: training would update the scheme's state first."""
    training, module.training = module.training, False
    try:
        return compose(module, name).detach().clone()
    finally:
        module.training = training


def _obstacle(weight: LiveWeight, scheme: Scheme, selection: Selection) -> str | None:
    if weight.obstacle:
        return weight.obstacle
    if scheme.shared:
        return f"{scheme.name} needs a graph of the whole model"
    if weight.role is None and weight.info.fqn not in selection.include:
        return "nothing shows what reads it; give example_inputs, or include it by its full name"
    return None
