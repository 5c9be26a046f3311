"""What a forward asks about its tensors, and decides by the answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.constructs.registry import ORDINARY, WIDTH, WithLinear, construct

TYPE = "type asked"
VALUE = "value asked"
SHAPE = "shape asked"


@construct(TYPE)
class IsInstanceOfTensor(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if isinstance(x, torch.Tensor) else h


@construct(TYPE)
class IsTensorFunction(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if torch.is_tensor(h) else h


@construct(TYPE)
class IsListOrTensor(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x] if isinstance(x, Tensor) else list(x)
        return torch.cat([self.fc(part) for part in parts])


@construct(TYPE)
class IsInstanceUnannotated(WithLinear):
    """Nothing says what the argument is."""

    def forward(self, x, scale=1.0):
        h = self.fc(x)
        return h * 2 if isinstance(x, torch.Tensor) and not isinstance(scale, torch.Tensor) else h


@construct(TYPE)
class ResultIsATuple(nn.Module):
    """Written for modules that return a tuple and for such as do not."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out = self.rnn(x)
        scale = 2.0 if isinstance(out, tuple) else 1.0
        return out[0] * scale


@construct(TYPE)
class ResultHasAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.attention(x, x, x)
        return out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]


@construct(TYPE)
class IsExactlyTensor(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if type(h) is Tensor else h


@construct(TYPE)
class IsParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.weight)
        return h * 2 if isinstance(self.weight, nn.Parameter) else h


@construct(TYPE)
class IsParameterOfChild(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if isinstance(self.fc.weight, nn.Parameter) else h


@construct(TYPE)
class IsExactlyParameter(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if type(self.fc.weight) is nn.Parameter else h


@construct(TYPE)
class WeightIsLeaf(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if self.fc.weight.is_leaf else h


@construct(TYPE)
class WeightRequiresGrad(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if self.fc.weight.requires_grad else h


@construct(TYPE)
class TriesLen(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        try:
            count = len(x)
        except TypeError:
            count = 0
        return self.fc(x) + count


@construct(TYPE)
class TriesIteration(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        try:
            rows = list(x)
        except Exception:  # noqa: BLE001 - the hazard
            rows = [x]
        return self.fc(x) * len(rows)


@construct(TYPE)
class TriesFloat(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        try:
            scale = float(x.detach().sum().sigmoid())
        except (TypeError, ValueError):
            scale = 1.0
        return self.fc(x) * scale


@construct(TYPE)
class HasAttribute(WithLinear):
    """A proxy has every attribute."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h.logits if hasattr(h, "logits") else h


@construct(TYPE)
class HasLastHiddenState(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        h = getattr(h, "last_hidden_state", h)
        return h.tanh()


@construct(TYPE)
class IsCallable(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h(1) if callable(h) else h


@construct(TYPE)
class AsksForCompiling(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
            h = h + 1
        return h


@construct(VALUE)
class RequiresGradRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if x.requires_grad else h


@construct(VALUE)
class DtypeRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if h.dtype == torch.bfloat16 else h


@construct(VALUE)
class DtypeCompared(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.to(self.fc.weight.dtype)).to(x.dtype)


@construct(VALUE)
class DeviceRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h if x.is_cuda or x.device.type == "cuda" else h + torch.zeros((), device=x.device)


@construct(VALUE)
class FloatingPointRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x if torch.is_floating_point(x) else x.float())


@construct(VALUE)
class ContiguousRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.is_contiguous() else self.fc(x.contiguous()) * 2


@construct(VALUE)
class SumDecides(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h if x.sum() > 0 else -h


@construct(VALUE)
class ItemDecides(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        steps = 1 + int(x.abs().sum().item()) % 3
        for _ in range(steps):
            x = self.fc(x).tanh()
        return x


@construct(VALUE)
class BufferDecides(WithLinear):
    """A schedule that a buffer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        h = self.fc(x)
        return h * 2 if int(self.step) > 1 else h


@construct(VALUE)
class ParameterDecides(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * self.gate if self.gate > 0 else h


@construct(VALUE)
class WeightVersionRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * (1 + min(self.fc.weight.dim(), 3))


@construct(SHAPE)
class ShapeBranch(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if x.shape[0] > 1 else h


@construct(SHAPE)
class LoopOverShape(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(x[i]) for i in range(x.shape[0])])


@construct(SHAPE)
class LoopOverRows(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(row) for row in x])


@construct(SHAPE)
class RankBranch(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.mean(1)
        return self.fc(x)


@construct(SHAPE)
class ShapeUnpacked(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.shape
        return self.fc(x.view(batch, 2, width // 2).transpose(1, 2).reshape(batch, width))


@construct(SHAPE)
class ShapeAsserted(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == WIDTH, f"width {x.shape[-1]}"
        return self.fc(x)


@construct(SHAPE)
class HelperThatAsks(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return _padded_to_even(self.fc(x))[: x.shape[0]]


def _padded_to_even(x: Tensor) -> Tensor:
    missing = x.shape[0] % 2
    return F.pad(x, (0, 0, 0, missing)) if missing else x


@construct(ORDINARY)
class ShapeOfTheWeight(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / self.fc.weight.shape[1] ** 0.5
