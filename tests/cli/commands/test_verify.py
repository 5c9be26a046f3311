from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import NO_TORCH, document, run, run_fresh
from wnconvert.checkpoint import load
from wnconvert_cli import render


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_help_never_imports_torch(command: str, tmp_path: Path) -> None:
    done = run_fresh(command, "--help", cwd=tmp_path, code=NO_TORCH)
    assert done.code == 0, done.err
    assert "HEAVY" not in done.out


def test_layouts_and_containers_do_not_count(plain: Path) -> None:
    run("apply", plain)
    state = load("model.weight_norm.pt").content["model"]
    save_file({f"module.{key}": value.clone() for key, value in state.items()}, "other.safetensors")
    outcome = run("verify", plain, "other.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        "compared:  5 tensors (3 weights composed from parts)\nidentical: 5 of 5\nverdict:   bit-identical\n"
    )


def changed(plain: Path, by: float) -> Path:
    content = load(plain).content
    content["model"]["2.weight"] = content["model"]["2.weight"] * (1 + by)
    torch.save(content, plain.with_name("changed.pt"))
    return plain.with_name("changed.pt")


def test_a_difference_is_shown_and_gives_exit_code_4(plain: Path) -> None:
    outcome = run("verify", plain, changed(plain, 1e-3))
    assert outcome.code == 4
    assert outcome.err == ""
    assert "model.2.weight  plain" in outcome.out
    assert "identical: 4 of 5" in outcome.out
    assert "verdict:   different" in outcome.out


def test_a_tolerance_may_be_given(plain: Path) -> None:
    outcome = run("verify", plain, changed(plain, 1e-3), "--tolerance", "1e-2")
    assert outcome.code == 0
    assert "verdict:   equal within 0.01" in outcome.out
    assert run("verify", plain, changed(plain, 1e-3), "--tolerance", "1e-4").code == 4
    assert run("verify", plain, plain, "--tolerance", "-1").code == 2


def test_what_is_missing_is_shown(plain: Path) -> None:
    content = load(plain).content
    del content["model"]["2.bias"]
    torch.save(content, "less.pt")
    outcome = run("verify", plain, "less.pt")
    assert outcome.code == 4
    assert "1 tensor only in" in outcome.out
    assert "(model.2.bias)" in outcome.out


def test_json_holds_the_figures(plain: Path) -> None:
    outcome = run("verify", plain, changed(plain, 1e-3), "--json")
    assert outcome.code == 4
    data = document(outcome)["comparison"]
    (entry,) = [each for each in data["compared"] if not each["equal"]]
    assert (data["equal"], data["passed"], entry["name"]) == (False, False, "model.2.weight")
    assert 1e-4 < entry["max_rel"] < 1e-2
    assert entry["ulps"] > 100


def test_quiet_says_it_by_the_exit_code(plain: Path) -> None:
    outcome = run("verify", plain, changed(plain, 1e-3), "-q")
    assert (outcome.code, outcome.out, outcome.err) == (4, "", "")


def test_files_without_a_common_name_cannot_be_compared(plain: Path) -> None:
    torch.save({"other": torch.ones(2)}, "other.pt")
    outcome = run("verify", plain, "other.pt")
    assert outcome.code == 3
    assert outcome.error == "nothing to compare: the files have no tensor of the same name"


def test_unknown_words_are_usage_errors(plain: Path) -> None:
    assert run("verify", plain, plain, "--preset", "tim").code == 2
    assert run("verify", plain, plain, "--precision", "exact").code == 2
    assert run("verify", plain, plain, "--dim", "output").code == 2
    assert run("verify", plain, "missing.pt").code == 1


def test_quiet_shows_no_progress_either(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def progress(text: str, *, quiet: bool = False) -> AbstractContextManager[None]:
        asked.append(quiet)
        return nullcontext()

    monkeypatch.setattr(render, "progress", progress)
    assert run("verify", plain, plain, "--quiet").code == 0
    assert asked == [True, True]
    assert run("verify", plain, plain).code == 0
    assert asked[2:] == [False, False]
