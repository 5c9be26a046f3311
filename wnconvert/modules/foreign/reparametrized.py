"""Fold torch's hooks and parametrizations of every kind off live modules.

torch's own removal does harm: on a deep copy it breaks the original, because both share one class; under ``no_grad`` it
leaves a buffer; in training mode it lets spectral norm take one more step; and it finds only what the same API made.
Here the module gets its class back and nothing shared is touched. A parametrization is any code, so it is watched as
`wnconvert.graph.constants` watches expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from wnconvert.graph.constants import (
    Guard,
    ImpureError,
    plain_copy,
    raise_if_different,
    refuse_dropout,
    refuse_leaves,
)
from wnconvert.graph.entries import Entries, join, own_tensors
from wnconvert.modules.hooks import Hook, is_torchs_own, kind_of
from wnconvert.modules.inplace import HOW
from wnconvert.modules.wrapped import reasons_against_fold
from wnconvert.reasons import Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.torch_private import (
    REGISTERED,
    WEIGHT_NORM_LOAD_HOOK,
    children_of,
    flat_weight_names,
    forward_pre_hooks_of,
    list_weights_again,
    load_hooks_of,
    parameters_of,
    parametrize_again,
    state_dict_hooks_of,
    transient_of,
)
from wnconvert.verification import same_bits
from wnconvert.weights.splitting import normal_tensors

#: where the parametrizations are defined that torch ships, which are known to be functions of their tensors
_TORCHS_OWN = "torch.nn.utils.parametrizations"


@normal_tensors()
def fold_reparametrized(model: nn.Module, selection: Selection) -> Report:
    """Put plain weights in the place of parametrized and hooked ones, with the bits of an evaluation forward.

    What is random, writes to parameters or buffers, or cannot be computed is skipped with the reason.
    """
    return _Folding(model, selection).run()


class _Folding:
    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model = model
        self.selection = selection
        self.converted: list[Converted] = []
        self.skipped: list[Skipped] = []
        self.held = reasons_against_fold(model)
        #: what was folded from the same tensors stays one tensor
        self.folded: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def guard(self) -> Guard:
        return Guard(tensor for _, tensor in Entries(self.model))

    def run(self) -> Report:
        for path, module in list(self.model.named_modules()):
            for hook_id, hook in list(forward_pre_hooks_of(module).items()):
                kind = kind_of(hook)
                if kind is not None:
                    self._fold_hook(path, module, hook_id, hook, kind)
            if parametrize.is_parametrized(module):
                self._fold_parametrizations(path, module)
        return Report(tuple(self.converted), tuple(self.skipped))

    def _fold_hook(self, path: str, module: nn.Module, hook_id: int, hook: Any, kind: Hook) -> None:
        parts = [f"{hook.name}_{part}" for part in kind.parts]
        sources = [getattr(module, part) for part in parts]
        fqn = join(path, hook.name)
        if self._is_held(fqn, module):
            return
        known, fqns = is_torchs_own(hook, kind), tuple(join(path, part) for part in parts)
        value = self._value(fqn, lambda: hook.compute_weight(module, **kind.evaluating), sources, known)
        if value is None or not self._wanted(fqn, value, f"torch {kind.function}", fqns):
            return
        del forward_pre_hooks_of(module)[hook_id]
        for hooks in (state_dict_hooks_of(module), load_hooks_of(module)):
            for key, other in list(hooks.items()):
                if getattr(getattr(other, "hook", other), "fn", None) is hook:
                    del hooks[key]
        module.__dict__.pop(hook.name, None)
        for part in parts:
            delattr(module, part)
        self._register(module, hook.name, value, sources)

    def _fold_parametrizations(self, path: str, module: nn.Module) -> None:
        lists: Any = module.parametrizations
        wanted = []
        for name in lists:
            steps, fqn = lists[name], join(path, name)
            if self._is_held(fqn, module):
                continue
            members = dict(steps.named_modules())
            named = list(_named_tensors(members))
            known = all(type(each).__module__ == _TORCHS_OWN for each in steps)
            value = self._value(fqn, steps, [tensor for _, tensor in named], known, members.values())
            kinds = " then ".join(f"torch {type(each).__name__.lstrip('_')}" for each in steps)
            parts = tuple(join(path, f"parametrizations.{name}.{key}") for key, _ in named)
            if value is not None and self._wanted(fqn, value, kinds, parts):
                wanted.append((name, value, [tensor for key, tensor in named if "." not in key]))
        if not wanted:
            return
        rest = [name for name in lists if name not in {name for name, _, _ in wanted}]
        module.__class__ = type(module).__bases__[0]
        for name, value, sources in wanted:
            del lists[name]
            self._register(module, name, value, sources)
        for key, hook in list(load_hooks_of(module).items()):
            if getattr(getattr(hook, "hook", hook), "__name__", "") == WEIGHT_NORM_LOAD_HOOK:
                del load_hooks_of(module)[key]
        if not rest:
            del children_of(module)["parametrizations"]
            return
        # a new class of its own: the old one may be shared with a copy of this module
        parametrize_again(module, rest)

    def _is_held(self, fqn: str, module: nn.Module) -> bool:
        """Whether something that wraps the module stands against folding it, which is then noted."""
        reason = self.held.get(id(module))
        if reason is not None:
            self.skipped.append(Skipped(fqn, "", reason))
        return reason is not None

    def _value(
        self,
        fqn: str,
        compute: Callable[[], Any],
        sources: Iterable[Tensor],
        known: bool,
        modules: Collection[nn.Module] = (),
    ) -> Tensor | None:
        """Compute a weight as evaluation does, or note why it is skipped; ``known`` code need not be watched."""
        try:
            refuse_leaves(sources)
            with _evaluating(modules):
                if known:
                    return plain_copy(compute())
                with _unchanged(modules):
                    return plain_copy(self._watched(compute, modules))
        except ImpureError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - a parametrization is the model's own code
            reason = Why.FAILS(error=f"{type(error).__name__}: {error}")
        self.skipped.append(Skipped(fqn, "", reason))
        return None

    def _watched(self, compute: Callable[[], Any], modules: Collection[nn.Module]) -> Tensor:
        for module in modules:
            refuse_dropout(module)
        with self.guard:
            value, again = compute(), compute()
        raise_if_different(value, again)
        return value

    def _wanted(self, fqn: str, value: Tensor, scheme: str, parts: tuple[str, ...]) -> bool:
        reason = self.selection.reason_against(WeightedOp(fqn, (), tuple(value.shape), value.dtype))
        if reason is not None:
            self.skipped.append(Skipped(fqn, "", reason))
            return False
        self.converted.append(Converted(fqn, "", scheme, parts, how=HOW, plain=True))
        return True

    def _register(self, module: nn.Module, name: str, value: Tensor, sources: list[Tensor]) -> None:
        """Register the value where torch's classes register theirs: first, or in the order of a recurrent module."""
        key = tuple(map(id, sources))
        known = self.folded.get(key)
        if known is None or not same_bits(known, value):
            trains = any(source.requires_grad for source in sources)
            is_parameter = any(isinstance(source, nn.Parameter) for source in sources)
            known = self.folded[key] = nn.Parameter(value, trains) if is_parameter else value
        if not isinstance(known, nn.Parameter):
            module.register_buffer(name, known)
            return
        parameters = parameters_of(module)
        entries = list(parameters.items())
        entries.insert(0, (name, known))
        if isinstance(module, nn.RNNBase):
            order = flat_weight_names(module)
            entries.sort(key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order))
        parameters.clear()
        parameters.update(entries)
        if isinstance(module, nn.RNNBase) and all(name in parameters for name in flat_weight_names(module)):
            list_weights_again(module)


def _named_tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict, without the work that making one is."""
    for path, each in modules.items():
        for name, tensor in own_tensors(each):
            if name not in transient_of(each):
                yield join(path, name), tensor


@contextmanager
def _evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode."""
    training = [each for each in modules if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


@contextmanager
def _unchanged(modules: Collection[nn.Module]) -> Iterator[None]:
    """Undo whatever modules assign to their attributes.

    Raises:
        ImpureError: one assigned a parameter, buffer or module.
    """
    before = [(dict(vars(each)), [dict(vars(each)[kind]) for kind in REGISTERED]) for each in modules]
    try:
        yield
        for each, (_, registered) in zip(modules, before, strict=True):
            if any(map(_differ, (vars(each)[kind] for kind in REGISTERED), registered)):
                raise ImpureError(Why.CHANGED_IN_PLACE(does="assigns", how="whenever it is computed"))
    finally:
        for each, (attributes, registered) in zip(modules, before, strict=True):
            each.__dict__.clear()
            each.__dict__.update(attributes)
            for kind, entries in zip(REGISTERED, registered, strict=True):
                each.__dict__[kind].clear()
                each.__dict__[kind].update(entries)


def _differ(entries: dict[str, Any], before: dict[str, Any]) -> bool:
    return list(entries) != list(before) or any(entries[name] is not value for name, value in before.items())
