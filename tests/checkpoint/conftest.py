"""Checkpoints to convert."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wnconvert.checkpoint import Checkpoint, manifest
from wnconvert.checkpoint.content import deferred
from wnconvert.checkpoint.manifest import Applied
from wnconvert.report import Report
from wnconvert.scheme import Scheme
from wnconvert.selection import WeightedOp

#: how many cases a property test tries: ``WNCONVERT_FUZZ=20000 pytest tests/checkpoint -k fuzz`` looks harder.
CASES = int(os.environ.get("WNCONVERT_FUZZ", "200"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Net(nn.Module):
    """Something of everything that a state dict may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.up = nn.ConvTranspose1d(4, 6, 5)
        self.norm = nn.BatchNorm2d(8)
        self.rnn = nn.LSTM(4, 3)
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


#: the plain weights of `Net`, tied ones once.
WEIGHTS = ("conv.weight", "up.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "embed.weight")


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def state_dict(dtype: torch.dtype = torch.float32, seed: int = 0) -> OrderedDict[str, Any]:
    torch.manual_seed(seed)
    net = Net().to(dtype)
    with torch.no_grad():
        net.conv.weight[1] = 0.0  # a zero channel has no direction of its own
    return net.state_dict()


def training_checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a training script saves: several state dicts, a tied copy, and much that is no tensor."""
    model, ema = state_dict(dtype), state_dict(dtype, seed=1)
    return {
        "epoch": 3,
        "model": model,
        "nested": {"ema": ema, "same": {"first.weight": model["conv.weight"]}},
        "loss": [0.5, float("nan"), None, ("a", b"b", True)],
        "steps": torch.tensor(17),
        7: "a key that is no text",
    }


def checkpoint(content: Any, format_name: str = "torch_zip") -> Checkpoint:
    return Checkpoint(content, format_name)


def recorded(content: dict[str, Tensor], **entries: tuple[Scheme, tuple[int, ...]]) -> Checkpoint:
    """Return a checkpoint that records of each name, dots for underlines, how the weight was split."""
    known = {name.replace("_", "."): Applied(*entry) for name, entry in entries.items()}
    return Checkpoint(content, "torch_zip", manifest.write({}, known))


def leftovers(folder: Path, *expected: str) -> set[str]:
    """Names in a folder besides the expected ones."""
    return {path.name for path in folder.iterdir()} - set(expected)


def reasons(report: Report) -> dict[str, str]:
    return {entry.fqn: entry.reason for entry in report.skipped}


def op(fqn: str, *shape: int, name: str = "linear", aliases: tuple[str, ...] = ()) -> WeightedOp:
    return WeightedOp(fqn, (name,), shape, torch.float32, (0,), aliases)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.pt"
    torch.save(training_checkpoint(), path)
    return path


@pytest.fixture(params=[1, 700, 1 << 21], ids="{} bytes".format)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(deferred, "BLOCK", request.param)
    return request.param
