"""What a conversion has to show."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import wnconvert
from tests.cli.conftest import document, report, run


def test_the_last_line_and_the_document_say_what_loads_the_output(folder: Path) -> None:
    net = nn.utils.weight_norm(nn.Linear(3, 3))
    torch.save({"generator": net.state_dict()}, "net.pt")
    for options in ([], ["--dry-run", "--force"]):
        *_, last = run("fold", "net.pt", *options).out.splitlines()
        assert last.startswith("loaded by: plain keys ('generator.weight'): build the model without weight norm, or ")
    data = report(run("fold", "net.pt", "--json", "--force"))["loads_into"]
    assert last == f"loaded by: {data['text']}"
    model = nn.utils.weight_norm(nn.Linear(3, 3))
    names = {"wnconvert": wnconvert, "model": model, "path": "net.folded.pt"}
    exec("import wnconvert.checkpoint\n" + "\n".join(data["code"]), names)
    assert torch.equal(names["model"].weight, net.weight)  # type: ignore[attr-defined]
    *_, last = run("apply", "net.folded.pt").out.splitlines()
    assert last.startswith("loaded by: keys of torch.nn.utils.weight_norm ('generator.weight_g'): torch's hooks and ")
    *_, last = run("migrate", "net.pt", "--to", "parametrization").out.splitlines()
    assert last.startswith("loaded by: keys of torch.nn.utils.parametrizations (")
    (nothing,) = document(run("fold", "net.folded.pt", "--json"))["files"]
    assert (nothing["exit_code"], nothing["loads_into"]) == (3, None)


def test_the_user_learns_where_the_record_is(folder: Path) -> None:
    net = nn.utils.weight_norm(nn.Linear(3, 3))
    torch.save(net.state_dict(), "net.pt", _use_new_zipfile_serialization=False)
    assert "record:    y.pt.wnconvert.json (belongs beside it)" in run("fold", "net.pt", "-o", "y.pt").out
    data = report(run("fold", "net.pt", "-o", "z.pt", "--json"))
    assert data["record"] == "z.pt.wnconvert.json"
    assert report(run("fold", "net.pt", "--json", "--dry-run"))["record"] is None
    assert report(run("fold", "net.pt", "-o", "bare.pt", "--json", "--no-record"))["record"] is None
    assert not Path("bare.pt.wnconvert.json").exists()
