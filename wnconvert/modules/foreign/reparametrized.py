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
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

from wnconvert.graph.constants import (
    Guard,
    ImpureError,
    plain_copy,
    raise_if_different,
    reason_against_leaf,
    refuse_dropout,
)
from wnconvert.graph.entries import Entries, join
from wnconvert.modules.inplace import HOW
from wnconvert.modules.wrapped import reasons_against_fold
from wnconvert.reasons import Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import same_bits
from wnconvert.weights.splitting import normal_tensors

#: where the parametrizations are defined that torch ships, which are known to be functions of their tensors
_TORCHS_OWN = "torch.nn.utils.parametrizations"


@normal_tensors()
def fold_reparametrized(model: nn.Module, selection: Selection) -> Report:
    """Put plain weights in the place of parametrized and hooked ones, with the bits of an evaluation forward.

    What is random, writes to parameters or buffers, or cannot be computed is skipped with the reason.

    Args:
        model: the model; it is changed.
        selection: which weights.
    """
    return _Foreign(model, selection).run()


class _Foreign:
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
            for hook_id, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, (WeightNormHook, SpectralNormHook)):
                    self._fold_hook(path, module, hook_id, hook)
            if parametrize.is_parametrized(module):
                self._fold_parametrizations(path, module)
        return Report(tuple(self.converted), tuple(self.skipped))

    def _fold_hook(self, path: str, module: nn.Module, hook_id: int, hook: Any) -> None:
        spectral = isinstance(hook, SpectralNormHook)
        parts = [f"{hook.name}_{part}" for part in (("orig", "u", "v") if spectral else ("g", "v"))]
        sources = [getattr(module, part) for part in parts]
        options = {"do_power_iteration": False} if spectral else {}
        known = type(hook) in (WeightNormHook, SpectralNormHook)
        fqn = join(path, hook.name)
        if self._is_held(fqn, module):
            return
        value = self._value(fqn, lambda: hook.compute_weight(module, **options), sources, known)
        scheme = "torch spectral_norm" if spectral else "torch weight_norm"
        if value is None or not self._wanted(fqn, value, scheme, tuple(join(path, part) for part in parts)):
            return
        del module._forward_pre_hooks[hook_id]
        for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
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
        for key, hook in list(module._load_state_dict_pre_hooks.items()):
            if getattr(getattr(hook, "hook", hook), "__name__", "") == "_weight_norm_compat_hook":
                del module._load_state_dict_pre_hooks[key]
        if not rest:
            del module._modules["parametrizations"]
            return
        # a new class of its own: the old one may be shared with a copy of this module
        parametrize._inject_new_class(module)
        for name in rest:
            parametrize._inject_property(module, name)

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
        """Compute a weight as evaluation does, or note why it is skipped.

        Args:
            fqn: dotted name of the weight.
            compute: computes it.
            sources: the tensors that it is computed from.
            known: the code is torch's own, and need not be watched.
            modules: the modules that take part.
        """
        try:
            for reason in filter(None, map(reason_against_leaf, sources)):
                raise ImpureError(reason)
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
        self.converted.append(Converted(fqn, "", scheme, parts, how=HOW))
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
        entries = list(module._parameters.items())
        entries.insert(0, (name, known))
        if isinstance(module, nn.RNNBase):
            order = module._flat_weights_names
            entries.sort(key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order))
        module._parameters.clear()
        module._parameters.update(entries)
        if isinstance(module, nn.RNNBase) and all(name in module._parameters for name in module._flat_weights_names):
            module._init_flat_weights()


def _named_tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict, without the work that making one is."""
    for path, each in modules.items():
        for name, tensor in (*each._parameters.items(), *each._buffers.items()):
            if tensor is not None and name not in each._non_persistent_buffers_set:
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
    contents = ("_parameters", "_buffers", "_modules")
    before = [(dict(vars(each)), [dict(vars(each)[kind]) for kind in contents]) for each in modules]
    try:
        yield
        for each, (_, registered) in zip(modules, before, strict=True):
            if any(map(_differ, (vars(each)[kind] for kind in contents), registered)):
                raise ImpureError(Why.CHANGES_STATE(does="assigns", how="whenever it is computed"))
    finally:
        for each, (attributes, registered) in zip(modules, before, strict=True):
            each.__dict__.clear()
            each.__dict__.update(attributes)
            for kind, entries in zip(contents, registered, strict=True):
                each.__dict__[kind].clear()
                each.__dict__[kind].update(entries)


def _differ(entries: dict[str, Any], before: dict[str, Any]) -> bool:
    return list(entries) != list(before) or any(entries[name] is not value for name, value in before.items())
