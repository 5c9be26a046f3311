"""Several inputs in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Outcome, document, run, sha
from wnconvert_cli.batch import colliding, expand


@pytest.fixture
def runs(folder: Path) -> Path:
    """Three plain checkpoints in two folders."""
    torch.manual_seed(0)
    for name in ("a.pt", "b.pt", "runs/c.pt"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        torch.save({"a.weight": torch.randn(3, 4)}, path)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.pt", "b.pt"], ["a.pt", "b.pt"]),
        (["b.pt", "*.pt"], ["b.pt", "a.pt"]),
        (["./a.pt", "a.pt", "[a]*"], ["a.pt"]),
        (["**/*.pt"], ["a.pt", "b.pt", "runs/c.pt"]),
        (["?.pt", "runs"], ["a.pt", "b.pt", "runs"]),
    ],
)
def test_patterns_mean_what_they_match_each_once(runs: Path, given: list[str], expected: list[str]) -> None:
    assert [str(each.path) for each in expand(list(map(Path, given)))] == expected
    assert [each.problem for each in expand(list(map(Path, given)))] == [None] * len(expected)


def test_a_name_that_looks_like_a_pattern_means_itself(runs: Path) -> None:
    (runs / "[ab].pt").write_bytes(b"x")
    assert [str(each.path) for each in expand([Path("[ab].pt")])] == ["[ab].pt"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("gone.pt", "no such file: 'gone.pt'"),
        ("x*.pt", "no file matches 'x*.pt'"),
        ("a.pt/b", "no such file: 'a.pt/b'"),
    ],
)
def test_what_is_not_there_is_named(runs: Path, given: str, text: str) -> None:
    (each,) = expand([Path(given)])
    assert str(each.problem) == text
    outcome = run("fold", given)
    assert (outcome.code, outcome.error) == (1, text)


def test_one_failure_does_not_stop_the_others(runs: Path) -> None:
    Path("bad.pt").write_bytes(b"no checkpoint")
    outcome = run("apply", "a.pt", "bad.pt", "gone.pt", "x*", "b.pt", "--json")
    assert outcome.code == 1
    assert [entry["exit_code"] for entry in document(outcome)["files"]] == [0, 1, 1, 1, 0]
    assert outcome.err.splitlines() == [
        f"error: {entry['error']['message']}" for entry in document(outcome)["files"] if entry["error"]
    ]
    assert all(name in line for name, line in zip(("bad.pt", "gone.pt", "x*"), outcome.err.splitlines(), strict=True))
    assert {"a.weight_norm.pt", "b.weight_norm.pt"} <= set(names(runs))


@pytest.mark.parametrize(
    ("code", "spec", "text"),
    [
        ("", "net.py", "must be of the form package.module:factory, or file.py:factory"),
        ("", "gone.py:build", "--model names 'gone.py'; there is no such file"),
        ("def build():\n    raise ValueError('no')", "net.py:build", "--model 'net.py:build' failed: ValueError: no"),
    ],
)
def test_a_bad_model_is_told_once_and_nothing_is_written(runs: Path, code: str, spec: str, text: str) -> None:
    (runs / "net.py").write_text(code)
    before = names(runs)
    outcome = run("apply", "a.pt", "b.pt", "runs/c.pt", "-m", spec)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert text in line
    assert not any(name in line for name in ("a.pt", "b.pt"))
    assert names(runs) == before


def test_an_error_names_its_file_where_there_are_several(runs: Path) -> None:
    outcome = run("fold", "a.pt", "b.pt")
    assert outcome.code == 3
    assert [line.split(": nothing to convert")[0] for line in outcome.err.splitlines()] == [
        "error: 'a.pt'",
        "error: 'b.pt'",
    ]
    outcome = run("apply", "a.pt", "b.pt", "-s", "unit_norm")
    assert outcome.err.count("warning: 'a.pt': unit_norm does not preserve the function") == 1


def damaged(path: str) -> None:
    Path(path).write_bytes(b"no checkpoint")


def split(path: str) -> None:
    torch.save({"a.weight_g": torch.ones(3, 1), "a.weight_v": torch.ones(3, 4)}, path)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"x.pt": split}, 0),
        ({"x.pt": split, "a.pt": None}, 3),
        ({"a.pt": None, "bad.pt": damaged}, 1),
        ({"bad.pt": damaged, "a.pt": None, "x.pt": split}, 1),
    ],
)
def test_the_worst_exit_code_counts(
    runs: Path, files: dict[str, Callable[..., Callable[[], object]] | None], code: int
) -> None:
    for path, make in files.items():
        if make:
            make(path)
    outcome = run("fold", *files, "--json")
    assert outcome.code == code
    error = document(outcome)["error"]
    assert (error is None) is (code == 0)
    if error:
        first = next(entry for entry in document(outcome)["files"] if entry["exit_code"] == code)
        assert error == {**first["error"], "input": first["input"]}


def test_outputs_go_into_a_folder(runs: Path) -> None:
    Path("out").mkdir()
    assert run("apply", "a.pt", "runs/c.pt", "--output-dir", "out").code == 0
    assert run("apply", "b.pt", "-d", "out").code == 0
    assert names(runs / "out") == ["a.weight_norm.pt", "b.weight_norm.pt", "c.weight_norm.pt"]
    assert "'new', which is no existing folder; create it first" in run("apply", "a.pt", "-d", "new").error


def check_refused(runs: Path, outcome: Outcome, *texts: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    for text in texts:
        assert text in outcome.error
    assert not [name for name in names(runs) if "weight_norm" in name]


def test_outputs_that_collide_are_refused_before_any_work(runs: Path) -> None:
    Path("runs/a.pt").write_bytes(Path("a.pt").read_bytes())
    Path("out").mkdir()
    both = "'a.pt' and 'runs/a.pt' would have the same output"
    check_refused(runs, run("apply", "b.pt", "a.pt", "runs/a.pt", "-d", "out"), both)
    check_refused(runs, run("apply", "a.pt", "runs/a.pt", "-d", "out", "-s", "weight_norm", "--dry-run"), both)
    Path("a.bin").write_bytes(Path("a.pt").read_bytes())
    check_refused(runs, run("apply", "a.pt", "a.bin", "--format", "safetensors"), "'a.pt' and 'a.bin' would have")
    assert run("apply", "a.pt", "a.bin").code == 0


def test_one_output_for_several_inputs_is_refused(runs: Path) -> None:
    check_refused(
        runs, run("apply", "a.pt", "b.pt", "-o", "x.pt"), "-o is 'x.pt', but there are several", "--output-dir"
    )
    check_refused(runs, run("apply", "a.pt", "-o", "x.pt", "-d", "runs"), "give one of the two")


def test_no_input_is_replaced_by_the_output_of_another(runs: Path) -> None:
    split("x.pt")
    split("x.folded.pt")
    before = sha(Path("x.folded.pt"))
    outcome = run("fold", "x.pt", "x.folded.pt", "--force")
    assert outcome.code == 2
    assert "the output of 'x.pt' would be the input 'x.folded.pt'" in outcome.error
    outcome = run("fold", "x.pt", "x.folded.pt")
    assert outcome.code == 1
    assert "'x.pt': output 'x.folded.pt' exists" in outcome.err
    assert sha(Path("x.folded.pt")) == before


def test_collisions_are_told_by_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path)
    a, b = Path("a"), Path("b")
    assert colliding([(a, tmp_path / "x"), (b, tmp_path / "y")]) is None
    assert colliding([(a, tmp_path / "x"), (b, tmp_path / "other" / "x")]) == (a, b)


def test_every_command_that_converts_takes_several(runs: Path) -> None:
    outcome = run("migrate", "*.pt", "**/c.pt", "--to", "hook", "--json")
    assert outcome.code == 3
    assert [entry["input"] for entry in document(outcome)["files"]] == ["a.pt", "b.pt", "runs/c.pt"]
