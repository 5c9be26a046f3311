"""Composing weights that are in parts, each when it is needed: by a scheme, or as the module of a layout does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from wnconvert.checkpoint.content.deferred import defer, shape_of
from wnconvert.checkpoint.content.tree import StateDict, storage_key
from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, Precision, direction, without_options
from wnconvert.checkpoint.manifest import Folded
from wnconvert.checkpoint.weights.outcome import Memo, as_entries
from wnconvert.device import CPU, Device
from wnconvert.errors import DeviceError
from wnconvert.reasons import Reason, Why
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec
from wnconvert.selection import WeightedOp

#: what torch raises for shapes from a file, which can be anything.
_MISFITS = (RuntimeError, IndexError, ValueError, TypeError)


@dataclass(frozen=True)
class Composer:
    """What composes a weight, and all that is to be known of it besides its parts.

    Attributes:
        compose: returns the weight, or those of its channels of which it is given the parts.
        name: name of the scheme, several joined by ``+``.
        lead: the part that has the weight's shape, dtype and strides.
        kept: the kept dims, or None where there are none.
        divisible: whether some channels give the same bits without the others.
        fits: whether the parts are known to fit together.
        was: returns what a file records of a weight that was folded so.
        key: what two composers have in common that give the same weight of the same parts.
        scheme: the scheme, where it is not the module of a layout that composes.
    """

    compose: Callable[[Mapping[str, Tensor]], Tensor]
    name: str
    lead: str
    kept: tuple[int, ...] | None
    divisible: bool
    fits: bool
    was: Callable[[], Folded]
    key: Hashable
    scheme: Scheme | None = None

    @torch.no_grad()
    def weight(
        self,
        parts: Mapping[str, Tensor],
        precision: Precision = "runtime",
        rows: slice | None = None,
        device: Device = CPU,
    ) -> Tensor:
        """Return the weight, in the dtype of its direction.

        Args:
            parts: its tensors by part name.
            precision: see `Precision`.
            rows: those of its channels that are wanted, if it is `divisible`, and on the CPU.
            device: where it is computed.
        """
        lead = parts[self.lead]
        if rows is not None:
            parts = {part: tensor[rows] for part, tensor in parts.items()}
        if precision == "reference":
            parts = {part: tensor.double() for part, tensor in parts.items()}
        made = device.run(self.compose, dict(parts))
        return made if made.dtype == lead.dtype else made.to(lead.dtype)


def by_layout(group: Group, preset: Layout | None = None) -> Composer:
    """Return the calls that the live module makes.

    Args:
        group: a group without a problem.
        preset: the layout that found it; by default the one of its name, without options.
    """
    name, kept, layout = str(group.scheme), group.kept, preset or without_options(LAYOUTS.get(group.layout))
    return Composer(
        compose=partial(layout.compose, group),
        name=name,
        lead=direction(group, layout),
        kept=None if "+" in name else kept,
        divisible=layout.channelwise(group),
        fits=True,
        was=partial(_folded, name, group.layout, kept, layout),
        key=(group.layout, kept, group.stack),
    )


@lru_cache(maxsize=256)  # thousands of weights share one way, and reading the options of a scheme is slow
def _folded(scheme: str, found: str, kept: tuple[int, ...] | None, layout: Layout) -> Folded:
    torchs = layout.api is not None and scheme in SCHEMES
    return Folded.of(scheme, found, kept, SCHEMES.get(scheme)() if torchs else layout)


@lru_cache(maxsize=256)
def by_scheme(scheme: Scheme, spec: WeightSpec) -> Composer:
    """Return the formula of a scheme."""

    def compose(parts: Mapping[str, Tensor]) -> Tensor:
        lead = parts[scheme.direction]
        same = lead.shape == spec.shape and lead.dtype == spec.dtype
        own = spec if same else replace(spec, shape=tuple(lead.shape), dtype=lead.dtype)
        return scheme.compose(parts, own)

    return Composer(
        compose=compose,
        name=scheme.name,
        lead=scheme.direction,
        kept=spec.kept,
        divisible=scheme.channelwise(spec),
        fits=frozenset(scheme.parts) == {scheme.direction, scheme.magnitude} and not scheme.shared,
        was=partial(Folded.of, scheme.name, "", spec.kept, scheme),
        key=(scheme, spec),
        scheme=scheme,
    )


@dataclass(frozen=True)
class Composition:
    """A weight that is to be composed.

    Attributes:
        op: its names, and the ops of the model that read it.
        groups: its keys, for each of its names.
        held: its parts by what makes tensors tied.
        by: what composes it.
        guessed: the scheme whose options nobody says.
    """

    op: WeightedOp
    groups: tuple[Group, ...]
    held: Hashable
    by: Composer
    guessed: Scheme | None = None

    @property
    def keys(self) -> list[str]:
        """The keys of all its parts; those last that it has in common with other weights."""
        own = [key for group in self.groups for key in group.keys.values()]
        return [*own, *self.by.scheme.shared] if self.by.scheme else own


def compose_all(
    state_dict: StateDict,
    wanted: Sequence[Composition],
    refused: Mapping[Scheme, str],
    precision: Precision,
    memo: Memo,
    device: Device = CPU,
) -> Iterator[tuple[Composition, Tensor | Reason]]:
    """Yield each weight of a state dict, to be computed when needed, or the reason why it cannot be.

    Weights of one scheme follow each other. A weight is a parameter where its direction is one.

    Args:
        state_dict: where the parts are.
        wanted: the weights.
        refused: a weight that is not composed, by its scheme: then others that share parts with it are not either.
        precision: see `Precision`.
        memo: weights already made.
        device: where they are computed.

    Raises:
        DeviceError: what all weights have in common cannot be computed there.
    """
    together: dict[Scheme | None, list[Composition]] = defaultdict(list)
    for each in wanted:
        together[each.by.scheme].append(each)
    for scheme, several in together.items():
        shared = {name: state_dict.tensors[name].detach() for name in scheme.shared} if scheme else {}
        if shared and scheme and scheme in refused:
            reason = Why.SPANS_MODEL(parts=", ".join(shared), other=refused[scheme])
            yield from ((each, reason) for each in several)
            continue
        if shared:  # what all weights have in common must not depend on the order of the keys
            several = sorted(several, key=lambda each: each.op.fqn)
        parts = [_parts(each, state_dict) for each in several]
        try:
            common = {**_gathered(scheme, several, parts, device), **shared}
        except DeviceError:
            raise
        except _MISFITS:
            yield from ((each, misfit({**own, **shared})) for each, own in zip(several, parts, strict=True))
            continue
        for each, own in zip(several, parts, strict=True):
            like = state_dict.entries[each.groups[0].keys[each.by.lead]]
            weight = _weight(each, own, common, like, precision, memo, device)
            yield each, misfit(own) if weight is None else weight


def misfit(parts: Mapping[str, Tensor], more: str = "") -> Reason:
    """Return that the shapes of parts are not those of one weight."""
    shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
    return Why.MISFIT(how=f": {shapes}{more}")


def _parts(composition: Composition, state_dict: StateDict) -> dict[str, Tensor]:
    return {part: state_dict.tensors[key].detach() for part, key in composition.groups[0].keys.items()}


def _gathered(
    scheme: Scheme | None, several: Sequence[Composition], parts: Sequence[Mapping[str, Tensor]], device: Device
) -> dict[str, Tensor]:
    if scheme is None:
        return {}
    leads = [own[scheme.direction] for own in parts]
    specs = [WeightSpec.of(v, each.by.kept or ()) for v, each in zip(leads, several, strict=True)]
    return device.run(scheme.gather, list(parts), specs)


def _weight(
    composition: Composition,
    own: Mapping[str, Tensor],
    common: Mapping[str, Tensor],
    like: Tensor,
    precision: Precision,
    memo: Memo,
    device: Device,
) -> Tensor | None:
    """Return the weight, to be computed when needed, or None where the parts do not fit together."""
    by = composition.by
    kind = isinstance(like, nn.Parameter), like.requires_grad
    key = (composition.held, tuple(map(storage_key, common.values())), by.key, kind)
    if key not in memo:
        parts, lead = {**own, **common}, own[by.lead]
        try:
            shown = shape_of(lead) if by.fits else by.compose({part: _without_data(t) for part, t in parts.items()})
        except _MISFITS:
            return None
        if shown.shape != lead.shape:
            return None
        made = partial(by.weight, parts, precision, device=device)
        # the kernels of other devices are chosen by the number of channels
        rows = made if by.divisible and device.is_cpu else None
        weight = defer(made, shown, list(parts.values()), rows)
        memo[key] = as_entries({"weight": weight}, like)["weight"]
    found: Tensor = memo[key]
    return found


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
