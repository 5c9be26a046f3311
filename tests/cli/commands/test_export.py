"""``wnconvert export``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.conftest import document, report, run
from tests.deploying.nets import Branching

CODE = """
import torch
from torch import nn

def build():
    print("building")
    torch.manual_seed(0)
    wn = nn.utils.parametrizations.weight_norm
    return nn.Sequential(wn(nn.Conv1d(4, 6, 5)), nn.BatchNorm1d(6), nn.ReLU(), wn(nn.Conv1d(6, 3, 1)))

def told():
    model = build()
    model.example_inputs = torch.zeros(1, 4, 9)
    model.dynamic_shapes = {"input": {2: "T"}}
    return model

def wrong():
    model = build()
    model.example_inputs = lambda: 1 / 0
    return model
"""


@pytest.fixture
def factory(folder: Path) -> str:
    (folder / "net.py").write_text(CODE)
    return "net.py:build"


def state(folder: Path) -> dict[str, torch.Tensor]:
    space: dict[str, object] = {}
    exec(CODE, space)
    return space["build"]().state_dict()  # type: ignore[operator]


def test_a_factorys_model_becomes_a_program(factory: str, folder: Path) -> None:
    outcome = run("export", factory, "-o", "net.pt2", "--input", "input=1,4,T(8..)")
    assert outcome.code == 0, outcome.err
    assert "normalized: 2 weights before, 0 after (2 torch WeightNorm)" in outcome.out
    assert "input:     input = 1,4,T(8..)" in outcome.out
    assert "verified:  outputs compared on inputs of 3 sizes: the same bits" in outcome.out
    assert outcome.err == "building\n"
    program = torch.export.load(folder / "net.pt2")
    assert program.module()(torch.zeros(1, 4, 33)).shape == (1, 3, 29)
    assert sorted(path.name for path in folder.iterdir()) == ["net.pt2", "net.py"]


def test_the_document_tells_all(factory: str) -> None:
    outcome = run("export", "net.py:told", "-o", "net.pt2", "--fuse", "batch_norm", "--json", "--quiet")
    entry = report(outcome)
    assert entry["output"] == "net.pt2"
    assert entry["normalizations"] == {"before": 2, "after": 0}
    assert entry["compared"]["sizes"] >= 2
    assert [each["fqn"] for each in entry["fused"]] == ["1"]
    assert entry["measured"]["fused"] < 1e-5
    assert entry["inputs"]["input"].startswith("1,4,T(")
    assert "0.weight" in entry["weights"]
    dry = report(run("export", "net.py:told", "-o", "dry.pt2", "--dry-run", "--json"))
    assert dry["output"] is None
    assert not Path("dry.pt2").exists()


def test_what_was_fused_is_shown(factory: str) -> None:
    outcome = run("export", "net.py:told", "-o", "net.pt2", "--fuse", "all", "--dry-run")
    assert "fused:     1 normalization (1 batch_norm) (1)" in outcome.out
    assert "against float64, unfused" in outcome.out
    assert "dry run:   nothing written; it would be net.pt2" in outcome.out


def test_a_checkpoint_with_its_model(factory: str, folder: Path) -> None:
    trained = {name: value + 1 if value.is_floating_point() else value for name, value in state(folder).items()}
    torch.save(trained, "net.pt")
    assert run("fold", "net.pt", "-o", "plain.pt").code == 0
    for file in ("net.pt", "plain.pt"):
        outcome = run("export", file, "-m", factory, "-o", f"{file}2", "-I", "input=1,4,T")
        assert outcome.code == 0, outcome.err
        written = torch.export.load(f"{file}2").state_dict
        plain = torch.load("plain.pt")
        # the model splits the plain weight, and composes it again
        for name in ("0.weight", "3.weight"):
            torch.testing.assert_close(written[name], plain[name])
    assert "name the model" in run("export", "net.pt", "-o", "x.pt2", "-I", "input=1,4,T").error


def test_a_pickled_model_and_a_program(folder: Path) -> None:
    torch.save(nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))), "whole.pt")
    assert run("export", "whole.pt", "-o", "a.pt2", "-I", "input=B,4").code == 1
    assert run("export", "whole.pt", "-o", "a.pt2", "-I", "input=B,4", "--trust").code == 0
    normalized = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    torch.export.save(torch.export.export(normalized, (torch.zeros(2, 4),)), "program.pt2")
    outcome = run("export", "program.pt2", "-o", "b.pt2")
    assert "normalized: 1 weight before, 0 after" in outcome.out
    assert set(torch.export.load("b.pt2").state_dict) == {"0.weight", "0.bias"}
    assert "a program takes what it was exported for" in run("export", "program.pt2", "-o", "c.pt2", "-I", "x=1").error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.py:build", "-o", "a.pt2"], 2, "nobody says what the model takes"),
        (["net.py:build", "-o", "a.bin", "-I", "input=1"], 2, "says by no suffix"),
        (["net.py:build", "-o", "a.pt2", "-I", "input=1,3,T"], 2, "does not run on inputs of these shapes"),
        (["net.py:build", "-o", "a.pt2", "-I", "input=1,4,T:floaty"], 2, "names no dtype"),
        (["net.py:build", "-o", "net.py", "-I", "input=1,4,T"], 2, "says by no suffix"),
        (["net.py:wrong", "-o", "a.pt2"], 2, "'example_inputs' failed: ZeroDivisionError"),
        (["net.py:missing", "-o", "a.pt2"], 2, "AttributeError"),
        (["net.py:told", "-o", "a.pt2", "--fuse", "batchnorm"], 2, "did you mean 'batch_norm'"),
        (["net.py:told", "-o", "a.pt2", "--fuse", "gain"], 3, "nothing to fuse"),
        (["net.py:told", "-o", "no/a.pt2"], 1, "is in no existing folder"),
        (["net.py:told", "-o", "a.pt2", "--trust"], 2, "go with a file"),
        (["absent.pt", "-o", "a.pt2"], 1, "absent.pt"),
    ],
)
def test_what_is_wrong_is_one_line(factory: str, folder: Path, arguments: list[str], code: int, message: str) -> None:
    outcome = run("export", *arguments)
    assert outcome.code == code
    assert message in outcome.err.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["net.py"]
    data = document(run("export", *arguments, "--json"))
    assert message in data["error"]["message"]
    assert data["files"] == [] or data["files"][0]["output"] is None


def test_a_model_that_torch_export_does_not_take(folder: Path) -> None:
    (folder / "odd.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
    )
    outcome = run("export", "odd.py:Odd", "-o", "a.pt2", "-I", "x=2,T")
    assert outcome.code == 1
    assert "torch.export does not export the model" in outcome.error


def test_what_is_left_is_a_warning_and_strictly_an_error(folder: Path) -> None:
    torch.export.save(torch.export.export(Branching().eval(), (torch.zeros(2, 4),)), "in.pt2")
    said = "1 of 2 weights are computed in the output still: inside 'true_graph_0', a cond"
    outcome = run("export", "in.pt2", "-o", "strict.pt2", "--strict")
    assert (outcome.code, outcome.error.partition(said)[1]) == (1, said)
    assert (
        document(run("export", "in.pt2", "-o", "strict.pt2", "--strict", "--json"))["error"]["kind"]
        == "IncompleteError"
    )
    entry = report(run("export", "in.pt2", "-o", "out.pt2", "--json"))
    assert entry["warnings"][0].startswith(said)
    assert entry["normalizations"] == {"before": 2, "after": 1}
    assert sorted(path.name for path in folder.iterdir()) == ["in.pt2", "out.pt2"]
