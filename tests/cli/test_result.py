"""What a conversion has to show."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.cli.conftest import report, run


def test_the_user_learns_where_the_record_is(folder: Path) -> None:
    net = nn.utils.weight_norm(nn.Linear(3, 3))
    torch.save(net.state_dict(), "net.pt", _use_new_zipfile_serialization=False)
    assert "record:    y.pt.wnconvert.json (belongs beside it)" in run("fold", "net.pt", "-o", "y.pt").out
    data = report(run("fold", "net.pt", "-o", "z.pt", "--json"))
    assert data["record"] == "z.pt.wnconvert.json"
    assert report(run("fold", "net.pt", "--json", "--dry-run"))["record"] is None
    assert report(run("fold", "net.pt", "-o", "bare.pt", "--json", "--no-record"))["record"] is None
    assert not Path("bare.pt.wnconvert.json").exists()
