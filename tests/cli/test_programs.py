"""Exported programs on the command line: a program in, a program out."""

from __future__ import annotations

import copy
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.cli import hostile_programs
from tests.cli.conftest import check_refused, document, report, run, run_process, sha
from tests.cli.limited import ready, try_all
from tests.exported.programs import (
    STAGES,
    assert_same_program,
    assert_same_state,
    exported,
    loaded,
    normalized,
    outputs,
)
from tests.graph.snapshot import assert_same_outputs
from wnconvert.exported import proof
from wnconvert.verification import same_bits

X = torch.linspace(-1, 1, 12).view(3, 4)


@pytest.fixture
def program(folder: Path) -> torch.export.ExportedProgram:
    """A small program, in model.pt2."""
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))
    program = torch.export.export(model, (X,))
    torch.export.save(program, folder / "model.pt2")
    return program


@pytest.mark.parametrize("stage", STAGES[:2])
def test_fold_and_apply_write_programs_that_torch_loads(stage: str, folder: Path) -> None:
    program = exported(normalized(), stage)
    torch.export.save(program, folder / "model.pt2")
    before, expected = sha(folder / "model.pt2"), outputs(copy.deepcopy(program))
    entry = report(run("fold", "model.pt2", "--json"))
    assert {each["fqn"]: each["op"] for each in entry["converted"]}.keys() == {
        *("first.weight", "hooked.weight", "spectral.weight", "frozen.weight")
    }
    assert entry["notes"] == ["run on inputs of 3 sizes, the program gives the same outputs as before, bit for bit"]
    assert entry["format"] == "torch.export"
    assert entry["loads_into"]["code"] == ["program = torch.export.load(path)"]
    folded = torch.export.load(folder / "model.folded.pt2")
    assert "first.weight" in folded.state_dict
    assert not any("parametrizations" in key for key in folded.state_dict)
    assert_same_outputs(outputs(copy.deepcopy(folded)), expected)
    assert run("apply", "model.folded.pt2", "-o", "again.pt2").code == 0
    assert run("fold", "again.pt2", "-o", "back.pt2").code == 0
    back = torch.export.load(folder / "back.pt2")
    assert_same_program(back, folded)
    assert_same_state(back, folded)
    assert run("verify", "model.pt2", "model.folded.pt2").code == (0 if stage == "exported" else 4)
    assert sha(folder / "model.pt2") == before


def test_what_is_in_a_program_is_shown(program: object) -> None:
    entry = document(run("inspect", "model.pt2", "--json"))["files"][0]
    assert entry["layouts"] == {"parametrization": 1}
    run("fold", "model.pt2")
    shown = run("inspect", "model.folded.pt2")
    assert "normalized  none" in shown.out


def test_a_program_is_converted_in_a_process_of_its_own(program: object, folder: Path) -> None:
    outcome = run_process("fold", "model.pt2", cwd=folder)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines() == [
        "note: run on 1 input, the program gives the same outputs as before, bit for bit"
    ]


def test_what_is_chosen_and_how_is_said_as_for_models(program: object, folder: Path) -> None:
    outcome = run("apply", "model.pt2", "--include", "2.*", "--dim", "1", "-s", "weight_norm", "--dry-run", "--json")
    (entry,) = report(outcome)["converted"]
    assert (entry["fqn"], entry["dims"]) == ("2.weight", [0])
    assert [path.name for path in folder.iterdir()] == ["model.pt2"]
    assert run("apply", "model.pt2", "--op", "linear", "--dry-run", "--trust").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["apply", "-s", "spectral_norm"], 2, "keeps a state that training updates"),
        (["fold", "--include", "x.*"], 3, "nothing to convert: "),
        (["fold", "--dim", "1"], 2, "a whole model says itself how its weights are computed"),
        (["fold", "--model", "a:b"], 2, "holds the program itself; leave out --model"),
        (["migrate", "--to", "hook"], 1, "holds a whole model, not a state dict"),
        (["apply", "--like", "model.pt2"], 2, "--like is for state dicts"),
        (["fold", "--state-dict"], 2, "--format torch_zip to write the weights alone"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[str], code: int, message: str, program: object, folder: Path
) -> None:
    command, *options = arguments
    check_refused(run(command, "model.pt2", *options), code, message, folder, "model.pt2")


def test_the_weights_alone_go_into_other_containers(program: torch.export.ExportedProgram, folder: Path) -> None:
    assert run("fold", "model.pt2", "-o", "weights.safetensors", "--format", "safetensors").code == 0
    assert run("fold", "model.pt2", "-o", "weights.pt").code == 0
    assert set(torch.load(folder / "weights.pt")) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_a_written_program_that_is_another_is_not_kept(
    program: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_equal = proof.require_equal

    def other(written: torch.export.ExportedProgram, read: torch.export.ExportedProgram) -> None:
        with torch.no_grad():
            read.state_dict["2.bias"].add_(1)
        require_equal(written, read)

    monkeypatch.setattr(proof, "require_equal", other)
    outcome = run("fold", "model.pt2")
    check_refused(outcome, 4, "the tensor '2.bias' of the written program differs", folder, "model.pt2")


def test_hostile_code_does_not_run(program: object, folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt2") as old, zipfile.ZipFile(folder / "evil.pt2", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                tree = json.loads(data)
                values = tree["graph_module"]["graph"]["tensor_values"].values()
                size = next(iter(values))["sizes"][0]
                size.clear()
                expression = f"__import__('pathlib').Path({str(folder / 'ran')!r}).touch()"
                size["as_expr"] = {"expr_str": expression, "hint": None}
                data = json.dumps(tree).encode()
            new.writestr(name, data)
    outcome = run("fold", "evil.pt2")
    check_refused(outcome, 1, "an expression that is no size", folder, "evil.pt2", "model.pt2")
    assert "(--trust)" in outcome.error
    entry = report(run("inspect", "evil.pt2", "--json"))
    assert entry["layouts"] == {"parametrization": 1}
    (note,) = entry["notes"]
    assert note.startswith("what its program computes was not looked at: 'evil.pt2' has an expression")


@pytest.mark.slow
def test_mutated_programs_give_an_error_or_a_program() -> None:
    assert hostile_programs.fuzz(60) == []


@pytest.mark.fuzz
def test_many_mutated_programs_give_an_error_or_a_program() -> None:
    assert hostile_programs.fuzz(int(os.environ.get("WNCONVERT_FUZZ", "2000"))) == []


def test_code_that_runs_is_noticed(tmp_path: Path) -> None:
    ready()
    wrong = try_all([hostile_programs.trusted()], tmp_path / "here")
    assert any("left 'ran' behind" in each for each in wrong)


def test_tied_weights_stay_tied_in_the_file(folder: Path) -> None:
    program = of_tied_weights()
    torch.export.save(program, folder / "model.pt2")
    assert run("apply", "model.pt2", "-o", "applied.pt2").code == 0
    state = torch.export.load(folder / "applied.pt2").state_dict
    assert state["0.weight_v"].data_ptr() == state["1.weight_v"].data_ptr()
    assert same_bits(torch.export.load(folder / "applied.pt2").module()(X), loaded(program).module()(X))


def of_tied_weights() -> torch.export.ExportedProgram:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return torch.export.export(model, (X,))
