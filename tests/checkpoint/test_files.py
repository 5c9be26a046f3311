from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import DTYPES, leftovers, state_dict, training_checkpoint
from tests.covering import pairwise
from tests.helpers import label
from wnconvert.checkpoint import (
    FORMATS,
    Checkpoint,
    apply,
    difference,
    fold,
    load,
    save,
    verify_apply,
    verify_content,
)
from wnconvert.checkpoint.formats.torch_zip import TorchZipFormat
from wnconvert.errors import CheckpointError, OutputError, VerificationError
from wnconvert.scheme import SCHEMES


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "scheme", "dtype"),
    pairwise(
        [name for name in FORMATS if FORMATS.get(name).not_written is None],
        [name for name in SCHEMES if SCHEMES.get(name)().preserving],
        DTYPES,
        allowed=lambda name, scheme, dtype: (name, dtype) != ("npz", torch.bfloat16),  # NumPy has none
    ),
    ids=label,
)
def test_a_file_survives_the_round_trip(tmp_path: Path, name: str, scheme: str, dtype: torch.dtype) -> None:
    kind = FORMATS.get(name)
    flat = kind.flat or kind.folder
    content = {key: t.clone() for key, t in state_dict(dtype).items()} if flat else training_checkpoint(dtype)
    metadata = {"license": "mine"} if kind.annotated else {}
    paths = [tmp_path / each for each in ("in", "applied", "folded")]
    if kind.folder:
        paths[0].mkdir()
    kind().write(Checkpoint(content, name, metadata), paths[0])
    before = load(paths[0])
    applied = apply(before, scheme, dim=0)
    save(applied.checkpoint, paths[1], source=paths[0], verify=lambda w: verify_apply(before, applied, w))
    folded = fold(load(paths[1]))
    save(folded.checkpoint, paths[2], source=paths[1], verify=lambda w: verify_content(folded.checkpoint, w))
    after = load(paths[2])
    assert difference(before.content, after.content, ordered=kind.ordered) is None
    assert dict(after.metadata) == metadata
    assert folded.report.notes == ()
    assert leftovers(tmp_path, "in", "applied", "folded") == (set() if kind.annotated else {"applied.wnconvert.json"})


def test_the_output_is_verified_before_it_appears(source: Path, tmp_path: Path) -> None:
    before = load(source)
    applied = apply(before)
    wrong = apply(before, "weight_norm", dim=1)
    with pytest.raises(VerificationError, match="not what was to be written"):
        save(wrong.checkpoint, tmp_path / "out.pt", source=source, verify=lambda w: verify_apply(before, applied, w))
    assert leftovers(tmp_path, "in.pt") == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_happens_nothing_is_left(source: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def fail(written: Checkpoint) -> None:
        assert len(leftovers(tmp_path, "in.pt")) == 1, "there must be a temporary file to clean up"
        raise error

    with pytest.raises(error):
        save(load(source), tmp_path / "out.pt", source=source, verify=fail)
    assert leftovers(tmp_path, "in.pt") == set()


def test_what_cannot_be_read_back_is_not_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = load(source)
    monkeypatch.setattr(TorchZipFormat, "write", lambda self, checkpoint, path: path.write_bytes(b"PK\x03\x04"))
    with pytest.raises(VerificationError, match="cannot be read back"):
        save(content, tmp_path / "out.pt", source=source)
    assert leftovers(tmp_path, "in.pt") == set()


def test_an_existing_output_is_replaced_only_by_force(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.pt"
    output.write_text("precious")
    with pytest.raises(OutputError, match="exists; give --force"):
        save(load(source), output, source=source)
    assert output.read_text() == "precious"
    save(load(source), output, source=source, force=True)
    assert difference(load(source).content, load(output).content) is None


def test_an_output_that_appears_meanwhile_is_not_replaced(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.pt"
    with pytest.raises(OutputError, match="exists; give --force"):
        save(load(source), output, source=source, verify=lambda written: output.write_text("precious") and None)
    assert output.read_text() == "precious"


def hard_link(path: Path, source: Path) -> None:
    path.hardlink_to(source)


def symlink(path: Path, source: Path) -> None:
    path.symlink_to(source.name)


def symlink_to_symlink(path: Path, source: Path) -> None:
    path.with_name("between.pt").symlink_to(source)
    path.symlink_to(path.with_name("between.pt"))


@pytest.mark.parametrize("link", [hard_link, symlink, symlink_to_symlink])
def test_the_input_is_never_written_over(source: Path, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    before, alias = sha(source), tmp_path / "alias.pt"
    link(alias, source)
    for output in (source, alias, tmp_path / "." / ".." / tmp_path.name / "in.pt"):
        with pytest.raises(OutputError, match="is the input itself"):
            save(load(source), output, source=source, force=True)
    with pytest.raises(OutputError, match="is the input itself"):
        save(load(source), source, source=alias, force=True)
    assert sha(source) == before


def test_outputs_get_the_usual_permissions(source: Path, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        save(load(source), tmp_path / "out.pt", source=source)
    finally:
        os.umask(mask)
    assert (tmp_path / "out.pt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/out.pt", "is in no existing folder"),
        ("in.pt/out.pt", "is in no existing folder"),
        (".", "is a directory"),
        ("x" * 300, "file name too long"),
    ],
)
def test_an_impossible_output_is_refused(source: Path, tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        save(load(source), tmp_path / output, source=source)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="is a directory"):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(tmp_path / "pipe")


def test_what_torch_cannot_pickle_is_refused(source: Path, tmp_path: Path) -> None:
    unpicklable = Checkpoint({"a": torch.ones(1), "f": lambda: None}, "torch_zip")
    with pytest.raises(OutputError, match="cannot write"):
        save(unpicklable, tmp_path / "out.pt", source=source)
    assert leftovers(tmp_path, "in.pt") == set()


@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy", "safetensors", "npz"])
def test_names_that_are_no_unicode_are_as_good_as_others(tmp_path: Path, name: str) -> None:
    source, output = (tmp_path / os.fsdecode(each) for each in (b"in\xff", b"out\xfe"))
    tensors = {"a.weight": torch.ones(2, 3)}
    torch.save(tensors, source)
    save(FORMATS.get(name)().adopt(load(source)), output, source=source)
    assert torch.equal(load(output).content["a.weight"], tensors["a.weight"])
    if name.startswith("torch"):
        assert torch.equal(load(output, trust=True).content["a.weight"], tensors["a.weight"])
