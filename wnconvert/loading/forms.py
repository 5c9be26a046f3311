"""In which form a live model holds each of its weights: plain, or in which parts, composed by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from wnconvert.checkpoint.content.names import is_weight_name, unwrapped
from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, find_groups
from wnconvert.graph.entries import join
from wnconvert.modules.computed import HOOK, PARAMETRIZATION, Computed, computed_below
from wnconvert.modules.hooks import is_torchs_own, kind_of
from wnconvert.modules.normalized import normalizations
from wnconvert.scheme import Scheme
from wnconvert.torch_private import forward_pre_hooks_of, is_spectral_norm_step, is_weight_norm_step
from wnconvert.weights.loading import split_weights


@dataclass(frozen=True)
class Form:
    """One weight that a model composes of parts.

    Attributes:
        fqn: its dotted name, as it would stand in the state dict of the model if it were plain.
        keys: the keys of its parts in the state dict of the model, by part.
        lead: the part that has the shape and dtype of the weight.
        by: what composes it: a scheme, of which the model itself takes plain weights; the module of a layout; or None,
            where nothing shows that.
        scheme: name of the scheme.
        kept: the kept dims.
    """

    fqn: str
    keys: Mapping[str, str]
    lead: str
    by: Scheme | Layout | None = None
    scheme: str = ""
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Held:
    """The state dict of a model, and what its keys mean.

    Attributes:
        entries: the state dict.
        forms: the weights that are in parts.
    """

    entries: Mapping[str, Any]
    forms: tuple[Form, ...]
    parts: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", frozenset(key for form in self.forms for key in form.keys.values()))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the entries."""
        return {key: value for key, value in self.entries.items() if isinstance(value, Tensor)}


def held_by(model: nn.Module) -> Held:
    """Return what a model holds, in the form in which it does."""
    entries = model.state_dict(keep_vars=True)
    ours = [form for form in _ours(model) if all(key in entries for key in form.keys.values())]
    taken = {key for form in ours for key in form.keys.values()}
    rest = {
        key: value
        for key, value in entries.items()
        if isinstance(value, Tensor) and key not in taken and not is_lazy(value)  # that has no shape yet
    }
    computed = {unwrapped(each.fqn): each for each in computed_below(model)}
    named = {name for name in computed if not is_weight_name(name)}
    groups = find_groups(rest, named=lambda stem: is_weight_name(stem) or unwrapped(stem) in named)
    forms = [_form(group, rest, computed) for group in groups if not LAYOUTS.get(group.layout).hint]
    return Held(entries, (*ours, *forms))


def _ours(model: nn.Module) -> Iterator[Form]:
    """Yield the weights that this package lets modules and graphs compose."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, how in normalizations(module).items():
            keys = {part: join(path, key) for part, key in how.keys.items()} | {n: n for n in how.scheme.shared}
            yield Form(join(path, name), keys, how.scheme.direction, how.scheme, how.scheme.name, how.spec.kept)
        for weight in split_weights(module):
            scheme = weight.scheme
            for fqn in (join(path, each) for each in weight.fqns):
                keys = {part: f"{fqn}_{part}" for part in scheme.parts} | {n: join(path, n) for n in scheme.shared}
                yield Form(fqn, keys, scheme.direction, scheme, scheme.name, weight.spec.kept)


def _form(group: Group, tensors: Mapping[str, Tensor], computed: Mapping[str, Computed]) -> Form:
    """Return the form that keys show, as far as the modules confirm it."""
    layout = LAYOUTS.get(group.layout)()
    prefixes = layout.unwrapped(group.stem)
    fqn = group.stem if prefixes is None else prefixes[1] + group.stem[len(prefixes[0]) :]
    largest = max(group.keys, key=lambda part: tensors[group.keys[part]].numel())
    scheme = group.scheme or ""
    lead = layout.direction.get(scheme.partition("+")[0], largest)
    if layout.api is None:
        by = layout if layout.spells and group.scheme and not group.problem else None
        return Form(fqn, group.keys, lead, by, scheme, group.kept)
    dim = _dim(computed.get(unwrapped(group.stem)), scheme)
    return Form(fqn, group.keys, lead, None if dim is None else layout, scheme, dim if dim is not None else group.kept)


def _dim(computed: Computed | None, scheme: str) -> tuple[int, ...] | None:
    """Return the kept dims of a weight that one of torch's own classes composes, or None where it is another's."""
    own: Any = None
    if computed is not None and computed.by == HOOK:
        for hook in forward_pre_hooks_of(computed.module).values():
            kind = kind_of(hook)
            if kind and kind.function == scheme and is_torchs_own(hook, kind) and hook.name == computed.name:
                own = hook
    elif computed is not None and computed.by == PARAMETRIZATION and parametrize.is_parametrized(computed.module):
        steps = list(computed.module.parametrizations[computed.name])  # type: ignore[index]
        known = {"weight_norm": is_weight_norm_step, "spectral_norm": is_spectral_norm_step}.get(scheme)
        own = steps[0] if len(steps) == 1 and known is not None and known(steps[0]) else None
    if own is None:
        return None
    return () if own.dim in (None, -1) else (own.dim,)
