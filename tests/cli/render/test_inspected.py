"""What is in a file, as it is shown."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.cli.conftest import run


def facts(text: str) -> dict[str, str]:
    pairs = (line.strip().partition("  ") for line in text.splitlines() if line.startswith("  "))
    return {label: value.strip() for label, _, value in pairs}


def test_what_stands_of_weights_and_of_what_is_odd(folder: Path) -> None:
    torch.manual_seed(0)
    conv = torch.nn.utils.weight_norm(nn.Conv1d(2, 3, 4))
    head = nn.Linear(3, 2)
    with torch.no_grad():
        head.weight[0] = 0
    torch.save({"net": nn.ModuleList([conv, head]).state_dict(), "epoch": 3}, "net.pt")
    outcome = run("inspect", "net.pt")
    shown = facts(outcome.out)
    assert outcome.out.startswith("net.pt (torch zip, ")
    assert shown["normalized"] == "1 weight under weight_norm"
    assert shown["kept dim"] == "weight_norm dim 0 \N{MULTIPLICATION SIGN} 1"
    assert shown["plain"] == "1 weight (1.weight)"
    assert shown["zero"] == "1 channel of 1.weight"
