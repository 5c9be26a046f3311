"""What holds while a forward runs: training or evaluation, gradients, autocast, checkpointing, other contexts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.fuzz.constructs.registry import WIDTH, WithLinear, construct

TRAINING = "training read"
GRAD_MODE = "gradient mode"
AUTOCAST = "autocast"
CHECKPOINT = "checkpoint"


@construct(TRAINING)
class TrainingRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if self.training else h


@construct(TRAINING)
class TrainingReadOfChild(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h.tanh() if self.fc.training else h


@construct(TRAINING)
class TrainingPassed(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x), 0.5, self.training)


@construct(TRAINING)
class TrainingAsNumber(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * (1.0 + float(self.training))


@construct(TRAINING)
class TrainingOfAllModules(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + sum(module.training for module in self.modules())


@construct(TRAINING)
class TrainingThroughGetattr(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * (3 if getattr(self, "training", False) else 1)


@construct(TRAINING)
class FunctionalBatchNorm(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("var", torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.fc(x), self.mean, self.var, training=self.training)


@construct(TRAINING)
class DropPath(WithLinear):
    """As timm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = _DropPath(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.fc(x))


class _DropPath(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * mask.div_(1 - self.p)


@construct(TRAINING)
class FrozenChild(WithLinear):
    """A part that stays in evaluation whatever `train` says."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def train(self, mode: bool = True) -> FrozenChild:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x))


@construct(TRAINING)
class SetsTheMode(WithLinear):
    """The forward itself puts a child in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.eval()
        return self.drop(self.fc(x))


@construct(GRAD_MODE)
class NoGradContext(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.fc(x)
        return self.head(h)


@construct(GRAD_MODE)
class NoGradDecorator(WithLinear):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(GRAD_MODE)
class NoGradMethod(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WIDTH)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.fc(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) + x


@construct(GRAD_MODE)
class NoGradOnParameters(WithLinear):
    """Only the weight is frozen; the input is not."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = self.fc.weight * 0.5
        return F.linear(x, weight, self.fc.bias)


@construct(GRAD_MODE)
class EnableGrad(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            h = self.fc(x)
        return h + h.requires_grad


@construct(GRAD_MODE)
class GradOnlyInTraining(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return self.fc(x)


@construct(GRAD_MODE)
class SetGradEnabledAsFunction(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        h = self.fc(x)
        torch.set_grad_enabled(before)
        return h + x


@construct(GRAD_MODE)
class InferenceModeContext(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            h = self.fc(x)
        return x + h.clone()


@construct(GRAD_MODE)
class InferenceModeDecorator(WithLinear):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(GRAD_MODE)
class GradEnabledRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if torch.is_grad_enabled() else h


@construct(GRAD_MODE)
class InferenceModeRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * 2 if torch.is_inference_mode_enabled() else h


@construct(AUTOCAST)
class AutocastOn(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = self.fc(x)
        return h.float()


@construct(AUTOCAST)
class AutocastOff(WithLinear):
    """A float32 island."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.fc(x.float())


@construct(AUTOCAST)
class AutocastDecorator(WithLinear):
    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).to(x.dtype)


@construct(AUTOCAST)
class AutocastRead(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h + 1 if torch.is_autocast_enabled("cpu") else h


@construct(CHECKPOINT)
class CheckpointedChild(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.fc, x, use_reentrant=False)


@construct(CHECKPOINT)
class CheckpointedReentrant(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.fc, x + 0.0, use_reentrant=True)


@construct(CHECKPOINT)
class CheckpointedInTraining(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.training:
            return checkpoint(self.body, h, use_reentrant=False)
        return self.body(h)


@construct(CHECKPOINT)
class CheckpointedMethod(WithLinear):
    def body(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x).relu(), 0.3, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


@construct(CHECKPOINT)
class CheckpointedWithCounter(WithLinear):
    """The backward runs the child again, which its counter shows."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.fc.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.runs += 1

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.fc, x, use_reentrant=False)


@construct(CHECKPOINT)
class CheckpointedSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_sequential(self.body, 2, x, use_reentrant=False)


@construct("other context")
class ChosenAttentionKernel(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).view(1, x.shape[0], 2, WIDTH // 2).transpose(1, 2)
        with sdpa_kernel(SDPBackend.MATH):
            h = F.scaled_dot_product_attention(h, h, h)
        return h.transpose(1, 2).reshape(x.shape)


@construct("other context")
class SavedOnCpu(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(_copied, _identity):
            return self.fc(x).exp().tanh()


def _copied(x: Tensor) -> Tensor:
    return x.clone()


def _identity(x: Tensor) -> Tensor:
    return x


@construct("other context")
class DefaultDtype(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.ones(WIDTH, dtype=torch.get_default_dtype())
