"""What a forward leaves behind in attributes, buffers and parameters, also those of other modules."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import WIDTH, WithLinear, construct

ATTRIBUTE = "attribute written"
BUFFER = "buffer written"
PARAMETER = "parameter written"


@construct(ATTRIBUTE)
class Counter(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.fc(x) / self.n


@construct(ATTRIBUTE)
class CounterUnread(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.fc(x)


@construct(ATTRIBUTE)
class KeepsLast(WithLinear):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.last = h.detach()
        return h


@construct(ATTRIBUTE)
class UsesLast(WithLinear):
    """A state that is carried from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.last is not None:
            h = h + 0.5 * self.last
        self.last = h.detach()
        return h


@construct(ATTRIBUTE)
class KeepsLastWithGraph(WithLinear):
    """An auxiliary loss that the training loop fetches."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.aux_loss = h.pow(2).mean()
        return h


@construct(ATTRIBUTE)
class WritesToChild(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        self.fc.seen = getattr(self.fc, "seen", 0) + 1
        return self.fc(x)


@construct(ATTRIBUTE)
class ListCache(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.history.append(h.detach())
        return h + len(self.history)


@construct(ATTRIBUTE)
class DictCache(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.cache["hidden"] = h.detach() + self.cache.get("hidden", 0)
        return h


@construct(ATTRIBUTE)
class KeyValueCache(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.cache: deque[Tensor] = deque(maxlen=2)

    def forward(self, x: Tensor) -> Tensor:
        self.cache.append(x.detach())
        return self.fc(torch.stack(tuple(self.cache)).mean(0))


@construct(ATTRIBUTE)
class StateInAnObject(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.meter = _Meter()

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.meter.count += 1
        return h * self.meter.count


class _Meter:
    def __init__(self) -> None:
        self.count = 0


@construct(ATTRIBUTE)
class SetattrByName(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        object.__setattr__(self, "hidden", h.detach())
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return h


@construct(BUFFER)
class RunningMeanInPlace(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h - self.mean


@construct(BUFFER)
class RunningMeanReassigned(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


@construct(BUFFER)
class RunningMeanThroughData(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.mean.data = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


@construct(BUFFER)
class BatchesCounted(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        return self.fc(x) / self.batches


@construct(BUFFER)
class QueueWritten(WithLinear):
    """A queue of keys, as in MoCo."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(4, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        with torch.no_grad():
            self.queue[1:] = self.queue[:-1].clone()
            self.queue[0] = h.mean(0)
        return h + self.queue.sum(0)


@construct(BUFFER)
class CodebookUpdated(WithLinear):
    """A codebook that follows its inputs, as in VQ-VAE with averages."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        nearest = torch.cdist(h.detach(), self.codes).argmin(-1)
        chosen = F.embedding(nearest, self.codes)
        if self.training:
            self.codes.index_add_(0, nearest, 0.1 * (h.detach() - chosen))
        return h + (chosen - h).detach()


@construct(BUFFER)
class BufferWrittenUnread(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.copy_(x.detach().mean(0))
        return self.fc(x)


@construct(BUFFER)
class BufferOfChildWritten(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.norm.running_mean.mul_(0.5)
        return self.norm(self.fc(x))


@construct(PARAMETER)
class MomentumTeacher(nn.Module):
    """The teacher follows the student inside forward, parameter by parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for theirs, ours in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                theirs.mul_(0.9).add_(ours, alpha=0.1)
            target = self.teacher(x)
        return self.student(x) - target


@construct(PARAMETER)
class MomentumTeacherThroughData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        self.teacher.weight.data = self.teacher.weight.data * 0.9 + self.student.weight.data * 0.1
        return self.student(x) - self.teacher(x).detach()


@construct(PARAMETER)
class WeightClipped(WithLinear):
    """A critic that clips its own weight."""

    def forward(self, x: Tensor) -> Tensor:
        self.fc.weight.data.clamp_(-0.1, 0.1)
        return self.fc(x)


@construct(PARAMETER)
class WeightNormalizedInForward(WithLinear):
    """Magnitude preserving networks do so in training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.fc.weight.copy_(F.normalize(self.fc.weight))
        return self.fc(x)


@construct(PARAMETER)
class WeightReplacedInForward(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.is_inference_mode_enabled():
            self.fc.weight = nn.Parameter(self.fc.weight.detach() * 0.9)
        return self.fc(x)


@construct(PARAMETER)
class GainWritten(WithLinear):
    """ActNorm: the first batch sets the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if not self.ready:
            self.gain.data.copy_(1 / (h.detach().std(0) + 0.1))
            self.ready.fill_(True)
        return h * self.gain


@construct(PARAMETER)
class LoadsAStateDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.target.load_state_dict(self.online.state_dict())
        return self.online(x) + self.target(x)


@construct("parameters listed")
class PenaltyOfAllParameters(WithLinear):
    """A forward that lists its parameters: converted ones are others."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + sum(parameter.pow(2).sum() for parameter in self.parameters())


@construct("parameters listed")
class ParameterByName(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, dict(self.named_parameters())["fc.weight"], self.fc._parameters["bias"])


@construct("parameters listed")
class ParameterOfDict(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.fc._parameters["weight"], self.fc.bias)


@construct("parameters listed")
class DtypeOfFirstParameter(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        first = next(self.parameters())
        return self.fc(x.to(first.dtype)).to(x.dtype)


@construct("parameters listed")
class FunctionalCall(WithLinear):
    """A module that runs its child with other weights."""

    def forward(self, x: Tensor) -> Tensor:
        halved = {name: value * 0.5 for name, value in self.fc.named_parameters()}
        return torch.func.functional_call(self.fc, halved, (x,))
