"""Gradients that are not those of the operations: functions of their own, hooks on tensors, gradients taken inside."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import ORDINARY, WIDTH, WithLinear, construct

FUNCTION = "autograd function"
TENSOR_HOOK = "tensor hook"
INSIDE = "gradient taken inside"


class Reversal(torch.autograd.Function):
    """Gradient reversal, of domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grad, None


class StraightThrough(torch.autograd.Function):
    """A rounding that lets the gradient pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@construct(FUNCTION)
class GradientReversal(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(Reversal.apply(x, 0.5))


@construct(FUNCTION)
class GradientReversalBehind(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return Reversal.apply(self.fc(x), 2.0)


@construct(FUNCTION)
class StraightThroughRounding(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return StraightThrough.apply(self.fc(x))


@construct(FUNCTION)
class QuantizedWeight(WithLinear):
    """Quantization aware: the function is applied to the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, StraightThrough.apply(self.fc.weight * 8) / 8, self.fc.bias)


@construct(FUNCTION)
class ReversedWeight(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Reversal.apply(self.fc.weight, 1.0), self.fc.bias)


@construct(ORDINARY)
class StraightThroughByDetach(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h + (h.round() - h).detach()


@construct(ORDINARY)
class DetachedBranch(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.fc(x.detach()).detach()


@construct(ORDINARY)
class DetachedWeight(WithLinear):
    """The second use does not train the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(x), self.fc.weight.detach())


@construct(TENSOR_HOOK)
class HookOnHidden(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if h.requires_grad:
            h.register_hook(_doubled)
        return h


@construct(TENSOR_HOOK)
class HookOnHiddenUnasked(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if torch.is_grad_enabled():
            h.register_hook(_doubled)
        return h


@construct(TENSOR_HOOK)
class HookKeepsTheGradient(WithLinear):
    """Grad-CAM."""

    seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if h.requires_grad:
            h.register_hook(self.keep)
        return h * 3

    def keep(self, grad: Tensor) -> None:
        self.seen = grad.detach().clone()


@construct(TENSOR_HOOK)
class GradientRetained(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.hidden: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 2
        if h.requires_grad:
            h.retain_grad()
            self.hidden[:] = [h]
        return h.tanh()


@construct(TENSOR_HOOK, copies=False)
class HookOfTheWeight(WithLinear):
    """A mask that keeps a part of the weight as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc.weight.register_hook(_top_half)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(TENSOR_HOOK, copies=False)
class HookOfTheBias(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.fc.bias.register_hook(_doubled)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def _doubled(grad: Tensor) -> Tensor:
    return grad * 2


def _top_half(grad: Tensor) -> Tensor:
    mask = torch.zeros_like(grad)
    mask[: WIDTH // 2] = 1
    return grad * mask


@construct(INSIDE)
class GradientPenalty(WithLinear):
    """A forward that differentiates its own output."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            return self.fc(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.fc(x).tanh().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return force


@construct(INSIDE)
class RequiresGradSet(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.detach())
        noise = torch.zeros(WIDTH).requires_grad_()
        return h + noise.exp()


@construct(INSIDE)
class RequiresGradOfTheWeightSet(WithLinear):
    """A schedule that freezes a layer from within."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.fc.requires_grad_(self.steps % 2 == 0)
        return self.head(self.fc(x))
