"""Apply and fold on live modules: the model stays the object it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from torch import Tensor, nn

from wnconvert.fitness import Overlaps, is_distributed
from wnconvert.graph.entries import Edits, Entries, Entry, join, own_tensors
from wnconvert.modules.aliases import Holders
from wnconvert.modules.classes import LiveWeight, live_weights
from wnconvert.modules.computed import HOOK, IN_PLACE, PARAMETRIZATION, computed_below
from wnconvert.modules.derived import is_covered, rederive
from wnconvert.modules.network import Member, Network
from wnconvert.modules.normalized import Kept, Normalization, kept, normalizations, tensor_of, weight_of
from wnconvert.modules.wrapped import reasons_against_fold
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp
from wnconvert.torch_private import buffers_of, list_weights_again, parameters_of
from wnconvert.weights.splitting import Split, Splitter, normal_tensors

#: for the report: how these conversions are made, in a model without a graph and in what a graph does not look into
HOW = "in place"
HOW_OPAQUE = "opaque region"
_ALREADY = {
    HOOK: "computed by a hook of the module",
    PARAMETRIZATION: "parametrized by torch.nn.utils.parametrize",
    IN_PLACE: "composed in place",
}


@normal_tensors()
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
        scheme: the scheme. One that needs all weights of the model together gathers them whenever ``model`` is called.
        dim: the kept dim.
        selection: which weights. A parameter of a class that wnconvert does not know is converted only by its name.
        paths: dotted names of the modules to look into; all by default.
        weights: what to convert, instead of what the classes of the modules tell.
    """
    splitter = Splitter(model, scheme, dim, selection)
    entries = Entries(model)
    holders = Holders(list(model.named_modules()))
    overlaps = Overlaps(chain(entries, holders.tensors))
    already = [
        Skipped(weight.fqn, "", Why.ALREADY_COMPUTED(how=_ALREADY[weight.by]))
        for weight in computed_below(model, paths)
    ]
    for weight in live_weights(entries, paths) if weights is None else weights:
        obstacle = overlaps.reason_against(weight.tensor) or holders.obstacle(weight.tensor)
        obstacle = obstacle or _obstacle(weight, scheme, selection, paths)
        splitter.add(weight.info, weight.tensor, weight.owners, obstacle, weight.padding)
    splits = splitter.verified()
    splitter.register(splits)
    _normalize(model, scheme, splits, holders)
    how = HOW if paths is None else HOW_OPAQUE
    converted = tuple(splitter.converted(split, how) for split in splits)
    return Report(converted, (*splitter.skipped, *already))


def _obstacle(weight: LiveWeight, scheme: Scheme, selection: Selection, paths: set[str] | None) -> Reason | None:
    if reason := weight.obstacle or _covered(weight.owners):
        return reason
    if scheme.shared and paths is not None:
        return Why.SPANS_MODEL(scheme=scheme.name)
    if weight.role is None and weight.info.fqn not in selection.include:
        return Why.READER_UNKNOWN()
    return None


def _normalize(model: nn.Module, scheme: Scheme, splits: list[Split], holders: Holders) -> None:
    """Make the weights composed ones, wherever they are held; their parts are registered."""
    modules: dict[int, nn.Module] = {}
    new: dict[int, Kept] = {}

    def change(module: nn.Module) -> Kept:
        if id(module) not in new:
            modules[id(module)] = module
            new[id(module)] = _copy(kept(module))
        return new[id(module)]

    network = None
    if scheme.shared and splits:
        network = Network(scheme, parameters_of(model), [_member(split, scheme) for split in splits])
        change(model).network = network
    for index, split in enumerate(splits):
        for owner in split.owners:
            how = Normalization(scheme, split.spec, _keys(owner, scheme), network, index)
            change(owner.module).weights[owner.name] = how
    for module, name, alias in holders.aliases({id(split.tensor): split.owners[0] for split in splits}):
        change(module).aliases[name] = alias
        del module.__dict__[name]
    for key, module in modules.items():
        rederive(module, new[key])


def _part_names(owner: Entry, how: Normalization) -> tuple[str, ...]:
    return (*(join(owner.path, key) for key in how.keys.values()), *how.scheme.shared)


def _copy(what: Kept | None) -> Kept:
    return Kept() if what is None else Kept(dict(what.weights), dict(what.aliases), what.network)


def _keys(owner: Entry, scheme: Scheme) -> dict[str, str]:
    return {part: f"{owner.name}_{part}" for part in scheme.parts}


def _member(split: Split, scheme: Scheme) -> Member:
    owner = split.owners[0]
    return Member(owner.fqn, _keys(owner, scheme), split.spec, parameters_of(owner.module), buffers_of(owner.module))


@normal_tensors()
def fold_in_place(model: nn.Module, selection: Selection) -> Report:
    """Put plain weights in the place of the parts that `apply_in_place` made, with the bits that they compose to."""
    found = _composed(model)
    roots = {id(what.network): module for module in model.modules() if (what := kept(module)) and what.network}
    chosen, skipped = _chosen(model, found, selection, roots)
    networks = {id(how.network): how.network for weight in chosen for _, how in weight.owners if how.network}
    values = _evaluate(chosen, networks)
    edits = Edits()
    changed: dict[int, nn.Module] = {}
    for weight, value in zip(chosen, values, strict=True):
        for owner, how in weight.owners:
            parts = set(how.keys.values())
            old = [name for name, _ in own_tensors(owner.module) if name in parts]
            edits.replace(owner.module, old, {owner.name: value})
            changed[id(owner.module)] = owner.module
    for key, network in networks.items():
        changed[id(roots[key])] = roots[key]
        edits.replace(roots[key], network.scheme.shared, {})
    edits.commit()
    _denormalize(model, chosen, changed, networks)
    converted = tuple(
        Converted(owner.fqn, "", how.scheme.name, _part_names(owner, how), how=HOW, plain=True)
        for weight in chosen
        for owner, how in weight.owners[:1]
    )
    return Report(converted, tuple(skipped))


@dataclass
class _Composed:
    """A composed weight: the places that hold it, with how they compose it, and its own parts."""

    parts: list[Tensor]
    owners: list[tuple[Entry, Normalization]] = field(default_factory=list)


def _composed(model: nn.Module) -> list[_Composed]:
    """Return the composed weights of ``model``, those that are tied as one."""
    found: dict[tuple[int, ...], _Composed] = {}
    for path, module in model.named_modules():
        for name, how in normalizations(module).items():
            parts = [tensor_of(module, key) for key in how.keys.values()]
            weight = found.setdefault(tuple(map(id, parts)), _Composed(parts))
            weight.owners.append((Entry(module, path, name), how))
    return list(found.values())


def _chosen(
    model: nn.Module, found: list[_Composed], selection: Selection, roots: dict[int, nn.Module]
) -> tuple[list[_Composed], list[Skipped]]:
    """Return the weights that are to be folded, and why the others are not."""
    chosen: list[_Composed] = []
    skipped: list[Skipped] = []
    held = reasons_against_fold(model)
    complete: dict[int, int] = {}
    for weight in found:
        (owner, how), *others = weight.owners
        aliases = tuple(other.fqn for other, _ in others)
        info = WeightedOp(owner.fqn, (), how.spec.shape, how.spec.dtype, aliases=aliases)
        if reason := selection.reason_against(info) or _held(weight, held):
            skipped.append(Skipped(owner.fqn, "", reason))
        else:
            chosen.append(weight)
            complete[id(how.network)] = complete.get(id(how.network), 0) + 1
    together: list[_Composed] = []
    for weight in chosen:
        owner, how = weight.owners[0]
        network = how.network
        if network is None or (complete[id(network)] == len(network.members) and id(network) in roots):
            together.append(weight)
        else:
            reason = Why.SPANS_MODEL(scheme=how.scheme.name, count=len(network.members))
            skipped.append(Skipped(owner.fqn, "", reason))
    return together, skipped


def _held(weight: _Composed, held: dict[int, Reason]) -> Reason | None:
    """Return why what holds a weight, or its parts, cannot hold its value instead."""
    owners = [owner for owner, _ in weight.owners]
    reason = next((held[id(owner.module)] for owner in owners if id(owner.module) in held), None)
    if reason is None and any(map(is_distributed, weight.parts)):
        reason = Why.SHARDED()
    return reason or _covered(owners)


def _covered(owners: Iterable[Entry]) -> Reason | None:
    for owner in owners:
        if is_covered(owner.module):
            return Why.WRAPPED(kind=type(owner.module).__name__)
    return None


def _evaluate(chosen: list[_Composed], networks: dict[int, Network]) -> list[nn.Parameter]:
    """Compose the weights as evaluation does: training would update the state of a scheme first."""
    before = {key: network.enter() for key, network in networks.items()}
    try:
        return [
            nn.Parameter(
                weight_of(owner.module, owner.name, training=False).detach().clone(),
                any(part.requires_grad for part in weight.parts),
            )
            for weight in chosen
            for owner, _ in weight.owners[:1]
        ]
    finally:
        for key, network in networks.items():
            network.leave(before[key])


def _denormalize(
    model: nn.Module, chosen: list[_Composed], changed: dict[int, nn.Module], networks: dict[int, Network]
) -> None:
    """Make the weights plain attributes again; their values are registered."""
    folded: dict[int, set[str]] = {key: set() for key in changed}
    for weight in chosen:
        for owner, _ in weight.owners:
            folded[id(owner.module)].add(owner.name)
    for key, module in changed.items():
        what = _copy(kept(module))
        for name in folded[key]:
            del what.weights[name]
        if id(what.network) in networks:
            what.network = None
        rederive(module, what)
        if isinstance(module, nn.RNNBase):
            list_weights_again(module)
    if chosen:
        for module in model.modules():
            _restore_aliases(module)


def _restore_aliases(module: nn.Module) -> None:
    """Make attributes plain again that hold plain weights only."""
    found = kept(module)
    if found is None or not found.aliases:
        return
    what, plain = _copy(found), {}
    for name, alias in found.aliases.items():
        if not any(each.name in normalizations(each.module) for each in alias.references()):
            plain[name] = what.aliases.pop(name).value()
    rederive(module, what)
    module.__dict__.update(plain)
