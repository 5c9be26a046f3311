"""One model twice: with torch's own parametrizations, and converted in place; from the same bits.

A scenario is a function that does something to a model and returns what came of it. It runs on both, and must leave
both with the same results, parameters, gradients and buffers: to the bit for weight norm, which both compute by the
same kernel, and up to rounding for spectral norm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from wnconvert.modules.inplace import apply_in_place
from wnconvert.scheme import resolve_scheme
from wnconvert.selection import Selection

KINDS = ("weight_norm", "spectral_norm")
WEIGHTED = ("conv", "inner.0", "inner.2", "head")


class Net(nn.Module):
    """Layers of several kinds, one of which is called twice; the inner ones may be checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)
        self.reentrant: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3))
        for _ in range(2):
            x = x + (
                self.inner(x) if self.reentrant is None else checkpoint(self.inner, x, use_reentrant=self.reentrant)
            )
        return self.head(x)


def batches(count: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield inputs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(5, 2, 6, 6, generator=generator)


def theirs(kind: str) -> Net:
    """Return the model with torch's parametrizations."""
    torch.manual_seed(0)
    model = Net()
    api = getattr(parametrizations, kind)
    for path in WEIGHTED:
        api(model.get_submodule(path))
    return model


def ours(kind: str, like: nn.Module | None = None) -> Net:
    """Return the model converted in place, with the parts of ``like``."""
    model = Net()
    apply_in_place(model, resolve_scheme(kind), 0, Selection())
    model.load_state_dict((like or theirs(kind)).state_dict(), strict=True)
    return model


_SPELLINGS = {
    "weight_norm": {"original0": "weight_g", "original1": "weight_v"},
    "spectral_norm": {"original": "weight_orig", "0._u": "weight_u", "0._v": "weight_v"},
}


def renamed(name: str, kind: str) -> str:
    """Return what a tensor of torch's parametrized model is called in ours."""
    path, found, part = name.partition(".parametrizations.weight.")
    return f"{path}.{_SPELLINGS[kind][part]}" if found else name


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers, and gradients, by name."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: tensor.detach() for name, tensor in (found | gradients).items()}


def assert_same(actual: Any, expected: Any, kind: str, what: str = "results") -> None:
    """Assert that two results are the same: to the bit for weight norm."""
    if isinstance(expected, Tensor):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
        if kind == "weight_norm":
            assert torch.equal(actual, expected), what
        else:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=lambda text: f"{what}: {text}")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), what
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, kind, f"{what}[{index}]")
    else:
        assert actual == expected, what


def assert_same_models(mine: nn.Module, their: nn.Module, kind: str) -> None:
    """Assert that two models hold the same parameters, buffers and gradients."""
    found = tensors_of(mine)
    expected = {}
    for name, tensor in tensors_of(their).items():
        prefix = "gradient of " if name.startswith("gradient of ") else ""
        expected[prefix + renamed(name.removeprefix(prefix), kind)] = tensor
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same(found[name], tensor, kind, name)


def compare(scenario: Callable[[Any], Any], kind: str) -> None:
    """Run a scenario on both models, and assert that it ends alike."""
    their = theirs(kind)
    mine = ours(kind, their)
    torch.manual_seed(1)
    expected = scenario(their)
    torch.manual_seed(1)
    actual = scenario(mine)
    assert_same(actual, expected, kind)
    assert_same_models(mine, their, kind)


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the loss of a batch."""
    return model(x).square().mean()


def train(model: nn.Module, inputs: Iterable[Tensor], optimizer: torch.optim.Optimizer | None = None) -> list[Tensor]:
    """Train on batches and return the losses."""
    # foreach would sum in the order of the parameters, which is not the same
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, foreach=False)
    found = []
    for x in inputs:
        optimizer.zero_grad()
        value = loss(model, x)
        value.backward()
        optimizer.step()
        found.append(value.detach())
    return found


def read(model: nn.Module) -> list[Tensor]:
    """Return the weights, as evaluation reads them."""
    twin = copy.deepcopy(model).eval()
    return [twin.get_submodule(path).weight.detach() for path in WEIGHTED]
