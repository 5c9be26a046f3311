"""Fold what others normalized on live modules: torch's hooks and parametrizations of every kind.

torch's own removal does harm: on a deep copy it breaks the original, because both share one class; under ``no_grad`` it
leaves a buffer; in training mode it lets spectral norm take one more step; and it finds only what the same API made.
Here the module gets its class back and nothing shared is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

from wnconvert.graph.entries import join
from wnconvert.graph.splitting import normal_tensors
from wnconvert.modules.inplace import HOW
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import same_bits


@normal_tensors()
def fold_foreign(model: nn.Module, selection: Selection) -> Report:
    """Put plain weights in the place of parametrized and hooked ones, with the bits of an evaluation forward.

    Args:
        model: the model; it is changed.
        selection: which weights.
    """
    return _Foreign(selection).run(model)


class _Foreign:
    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.converted: list[Converted] = []
        self.skipped: list[Skipped] = []
        #: what was folded from the same tensors stays one tensor
        self.folded: dict[tuple[int, ...], Tensor] = {}

    def run(self, model: nn.Module) -> Report:
        for path, module in list(model.named_modules()):
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
        value = hook.compute_weight(module, do_power_iteration=False) if spectral else hook.compute_weight(module)
        scheme = "torch spectral_norm" if spectral else "torch weight_norm"
        if not self._wanted(join(path, hook.name), value, scheme, tuple(join(path, part) for part in parts)):
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
            with _evaluating(lists[name]):
                value = lists[name]()
            kinds = " then ".join(f"torch {type(each).__name__.lstrip('_')}" for each in lists[name])
            parts = tuple(join(path, f"parametrizations.{name}.{key}") for key in lists[name].state_dict())
            if self._wanted(join(path, name), value, kinds, parts):
                wanted.append(
                    (name, value, [*lists[name].parameters(recurse=False), *lists[name].buffers(recurse=False)])
                )
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
            known = self.folded[key] = nn.Parameter(value.clone(), trains) if is_parameter else value.clone()
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


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
