"""Whatever is wrong: one clear line, the right exit code, nothing half-written, the input untouched."""

from __future__ import annotations

import os
import pickle
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import check_refused, run, run_process, sha


class Marker:
    """A pickle of this creates a folder when read: harmless, and proof that code ran."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("proof",)


def whole(path: Path) -> bytes:
    torch.save({"model": {"a.weight": torch.ones(20, 20)}}, path)
    return path.read_bytes()


def truncated(share: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = whole(path)
        path.write_bytes(data[: int(len(data) * share)])

    return make


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "empty": (lambda path: path.touch(), "is empty"),
    "cut at 1 %": (truncated(0.01), "cut short"),
    "cut at 30 %": (truncated(0.3), "cut short"),
    "cut at 99 %": (truncated(0.99), "cut short"),
    "random": (lambda path: path.write_bytes(random.Random(0).randbytes(5000)), "no checkpoint of a known kind"),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps(Marker())), "plain pickle"),
    "forbidden global": (lambda path: torch.save({"a.weight": Marker()}, path), "mkdir"),
    "forbidden global, old": (
        lambda path: torch.save({"a": Marker()}, path, _use_new_zipfile_serialization=False),
        "mkdir",
    ),
}


@pytest.mark.parametrize("command", ["apply", "fold", "inspect"])
@pytest.mark.parametrize("kind", list(FILES))
def test_a_bad_file_is_refused(kind: str, command: str, folder: Path) -> None:
    make, message = FILES[kind]
    if command == "inspect" and message == "mkdir":
        make(folder / "input.pt")
        outcome = run(command, folder / "input.pt")
        assert (outcome.code, outcome.err) == (0, "")
        assert f"is an object of {os.mkdir.__module__ + '.mkdir'!r}, which its code alone can build" in outcome.out
        assert [path.name for path in folder.iterdir()] == ["input.pt"]
        return
    path = folder / "input.pt"
    make(path)
    before = sha(path) if path.is_file() else None
    check_refused(run(command, path), 1, message, folder, *(["input.pt"] if path.exists() else []))
    assert (sha(path) if path.is_file() else None) == before


def test_the_marker_runs_when_trusted(folder: Path) -> None:
    torch.save({"a.weight": Marker()}, "input.pt")
    run("inspect", "input.pt", "--trust")
    assert Path("proof").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["apply", "-i", "nothing*"], 3, "nothing to convert: not included by 'nothing*' (3 weights)"),
        (["fold"], 3, "nothing to convert"),
        (["apply", "-s", "weight_nrom"], 2, "did you mean 'weight_norm'?"),
        (["fold", "-s", "weight_nrom"], 2, "did you mean 'weight_norm'?"),
        (
            ["apply", "-O", "log=1"],
            2,
            "has no option 'log'; did you mean 'log_g'? (known: log_g, p, written_out)",
        ),
        (["apply", "-O", "p"], 2, "option 'p' is not of the form key=value"),
        (["apply", "-O", "p=many"], 2, "option weight_norm.p is 'many'; it must be a number"),
        (["apply", "-O", "p=3"], 2, "it must be 1, 2 or inf"),
        (["apply", "--dim", "first"], 2, "--dim is 'first'"),
        (["apply", "--dim", "9"], 3, "has no dim 9"),
        (["apply", "--dim", "output"], 3, "give one (--model), or a dim (--dim 0)"),
        (["apply", "-o", "there.pt"], 1, "output 'there.pt' exists; give --force"),
        (["apply", "-o", "model.pt", "--force"], 1, "is the input itself"),
        (["apply", "-o", "link.pt", "--force"], 1, "is the input itself"),
        (["apply", "-o", "hard.pt", "--force"], 1, "is the input itself"),
        (["apply", "-o", "out.safetensors"], 1, "safetensors cannot hold this content: 'model' is a nested dict"),
        (["apply", "-o", "missing/out.pt"], 1, "is in no existing folder; create 'missing' first"),
        (["apply", "-o", "there.pt/out.pt"], 1, "is in no existing folder"),
        (["apply", "-o", "."], 1, "is a directory"),
        (["apply", "-o", "x" * 300], 1, "too long"),
    ],
)
def test_a_bad_request_is_refused(plain: Path, folder: Path, arguments: list[str], code: int, message: str) -> None:
    (folder / "there.pt").write_text("precious")
    (folder / "link.pt").symlink_to("model.pt")
    (folder / "hard.pt").hardlink_to("model.pt")
    before = sha(plain)
    command, *rest = arguments
    check_refused(run(command, plain, *rest), code, message, folder, "model.pt", "there.pt", "link.pt", "hard.pt")
    assert sha(plain) == before
    assert (folder / "there.pt").read_text() == "precious"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="only POSIX limits the size of files")
@pytest.mark.parametrize("suffix", ["pt", "safetensors", "legacy"])
def test_a_full_disk_leaves_nothing(folder: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    source, tensors = folder / f"large.{suffix}", {"a.weight": torch.ones(300, 300)}
    if suffix == "safetensors":
        save_file(tensors, source)
    else:
        torch.save(tensors, source, _use_new_zipfile_serialization=suffix == "pt")
    before = sha(source)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    outcome = run_process("apply", source, cwd=folder, code=limit)
    check_refused(outcome, 1, "file too large", folder, source.name)
    assert "cannot write" in outcome.error
    assert sha(source) == before


def test_typing_errors_are_usage_errors(plain: Path) -> None:
    outcome = run("apply", plain, "--schem", "x")
    assert outcome.code == 2
    assert "--scheme" in outcome.err
    assert "Traceback" not in outcome.err
