"""Hooks and other ways in which an instance does more than the forward of its class."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.constructs.registry import WIDTH, WithLinear, construct

HOOK = "module hook"
INSTANCE = "instance differs from its class"
STATE_DICT = "state dict hook"


class Log:
    """Counts the calls of hooks; an object of its own, so that a copy of the model has a copy of it."""

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls += 1

    def pre(self, module: nn.Module, args: Any) -> None:
        self.calls += 1

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        self.calls += 1


def scaled_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 1.5


def shifted_input(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] + 1,)


def doubled_gradient(module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
    return tuple(None if grad is None else grad * 2 for grad in grad_input)


def doubled_output_gradient(module: nn.Module, grad_output: Any) -> Any:
    return tuple(None if grad is None else grad * 2 for grad in grad_output)


class _Body(WithLinear):
    """A container with two weights: hooks of the root, of a container and of a leaf are put on it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.log = Log()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.fc(x))


@construct(HOOK)
def CountingHookOfRoot() -> nn.Module:  # noqa: N802 - named like the classes
    model = _Body()
    model.register_forward_hook(model.log.forward)
    return model


@construct(HOOK)
def CountingHookOfContainer() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_forward_hook(model.log.forward)
    return model


@construct(HOOK)
def CountingHookOfLeaf() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.register_forward_hook(model.log.forward)
    return model


@construct(HOOK)
def CountingPreHooks() -> nn.Module:  # noqa: N802
    model = _Body()
    for module in (model, model.body, model.fc):
        module.register_forward_pre_hook(model.log.pre)
    return model


@construct(HOOK)
def CountingBackwardHooks() -> nn.Module:  # noqa: N802
    model = _Body()
    for module in (model, model.body, model.fc):
        module.register_full_backward_hook(model.log.backward)
    return model


@construct(HOOK)
def ChangingHookOfRoot() -> nn.Module:  # noqa: N802
    model = _Body()
    model.register_forward_hook(scaled_output)
    return model


@construct(HOOK)
def ChangingHookOfContainer() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_forward_hook(scaled_output)
    return model


@construct(HOOK)
def ChangingHookOfLeaf() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.register_forward_hook(scaled_output)
    return model


@construct(HOOK)
def ChangingPreHookOfRoot() -> nn.Module:  # noqa: N802
    model = _Body()
    model.register_forward_pre_hook(shifted_input)
    return model


@construct(HOOK)
def ChangingPreHookOfContainer() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_forward_pre_hook(shifted_input)
    return model


@construct(HOOK)
def ChangingPreHookOfLeaf() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.register_forward_pre_hook(shifted_input)
    return model


@construct(HOOK)
def HookWithKwargs() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.register_forward_hook(_sees_kwargs, with_kwargs=True)
    model.body.register_forward_pre_hook(_shifts_with_kwargs, with_kwargs=True)
    return model


def _sees_kwargs(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output - len(kwargs)


def _shifts_with_kwargs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return (args[0] * 0.5,), kwargs


@construct(HOOK)
def HookAlwaysCalled() -> nn.Module:  # noqa: N802
    model = _Body()
    model.register_forward_hook(model.log.forward, always_call=True)
    return model


@construct(HOOK)
def ChangingBackwardHookOfRoot() -> nn.Module:  # noqa: N802
    model = _Body()
    model.register_full_backward_hook(doubled_gradient)
    return model


@construct(HOOK)
def ChangingBackwardHookOfContainer() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_full_backward_hook(doubled_gradient)
    return model


@construct(HOOK)
def ChangingBackwardHookOfLeaf() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.register_full_backward_hook(doubled_gradient)
    return model


@construct(HOOK)
def ChangingBackwardPreHook() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_full_backward_pre_hook(doubled_output_gradient)
    return model


@construct(HOOK)
def HookOnActivation() -> nn.Module:  # noqa: N802
    """The weightless leaf too is a module."""
    model = _Body()
    model.body[1].register_forward_hook(model.log.forward)
    return model


@construct(HOOK)
def HookKeepsFeatures() -> nn.Module:  # noqa: N802
    model = _Body()
    model.body.register_forward_hook(_keep_features)
    return model


def _keep_features(module: nn.Module, args: Any, output: Tensor) -> None:
    module.features = output.detach()


@construct(HOOK)
def HookOfAMethod() -> nn.Module:  # noqa: N802
    return _OwnHook()


class _OwnHook(WithLinear):
    """A hook that is a method of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.fc.register_forward_hook(self.on_forward)

    def on_forward(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).relu()


@construct(INSTANCE)
def ForwardByPartial() -> nn.Module:  # noqa: N802
    """As Accelerate wraps a forward."""
    model = _Body()
    inner = model.body.forward
    model.body.forward = functools.update_wrapper(functools.partial(_wrapped_forward, model.body), inner)
    model.body._old_forward = inner
    return model


def _wrapped_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    return module._old_forward(*args, **kwargs) * 2


@construct(INSTANCE)
def ForwardByMethodType() -> nn.Module:  # noqa: N802
    model = _Body()
    model.fc.forward = types.MethodType(_negated_linear, model.fc)
    return model


def _negated_linear(self: Any, x: Tensor) -> Tensor:
    return -nn.functional.linear(x, self.weight, self.bias)


@construct(INSTANCE)
def ForwardOfRootByMethodType() -> nn.Module:  # noqa: N802
    model = _Body()
    model.forward = types.MethodType(_backwards_body, model)
    return model


def _backwards_body(self: Any, x: Tensor) -> Tensor:
    return self.fc(self.body(x))


@construct(INSTANCE, copies=False)
def ForwardByClosure() -> nn.Module:  # noqa: N802
    """A LoRA injector; a deep copy shares the closure, and with it the modules of the original."""
    model = _Body()
    model.lora = nn.Linear(WIDTH, WIDTH, bias=False)
    inner, lora = model.fc.forward, model.lora
    model.fc.forward = lambda x: inner(x) + lora(x)
    return model


@construct(INSTANCE)
class OverriddenCall(WithLinear):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(INSTANCE)
class OverriddenCallOfChild(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.head = _LoudLinear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


class _LoudLinear(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 3


@construct(INSTANCE)
class SubclassedLinear(WithLinear):
    """A subclass of torch's class with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _ScaledLinear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


class _ScaledLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * 0.5, self.bias)


@construct(INSTANCE)
class GetattrFallback(WithLinear):
    """Attributes that are looked up elsewhere."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("fc"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.in_features


@construct(STATE_DICT)
class ExtraState(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.epoch = 7

    def get_extra_state(self) -> Any:
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Any) -> None:
        self.epoch = state["epoch"]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / self.epoch


@construct(STATE_DICT)
class StateDictHook(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_adds_version)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def _adds_version(module: nn.Module, state_dict: Any, prefix: str, metadata: Any) -> None:
    state_dict[f"{prefix}format_version"] = torch.tensor(2)


@construct(STATE_DICT)
class StateDictOfChildHook(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH))
        self.body.register_state_dict_post_hook(_adds_version)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.fc(x))


@construct(STATE_DICT)
class OverriddenStateDict(WithLinear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        state[kwargs.get("prefix", "") + "note"] = torch.ones(1)
        return state

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(STATE_DICT)
class OverriddenSave(WithLinear):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}saved_by"] = torch.ones(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)
