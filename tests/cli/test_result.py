"""What a conversion has to show."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tests.cli.conftest import run


def test_the_user_learns_where_the_record_is(folder: Path) -> None:
    net = nn.utils.weight_norm(nn.Linear(3, 3))
    torch.save(net.state_dict(), "net.pt", _use_new_zipfile_serialization=False)
    assert "record:    y.pt.wnconvert.json (belongs beside it)" in run("fold", "net.pt", "-o", "y.pt").out
    data = json.loads(run("fold", "net.pt", "-o", "z.pt", "--json").out)
    assert data["record"] == "z.pt.wnconvert.json"
    assert json.loads(run("fold", "net.pt", "--json", "--dry-run").out)["record"] is None
    assert json.loads(run("fold", "net.pt", "-o", "bare.pt", "--json", "--no-record").out)["record"] is None
    assert not Path("bare.pt.wnconvert.json").exists()
