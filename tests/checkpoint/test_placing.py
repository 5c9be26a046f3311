"""What is never written over, whatever is asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import leftovers
from wnconvert.checkpoint import FORMATS, Checkpoint, check_output, load, save
from wnconvert.checkpoint.storage import scratch
from wnconvert.errors import OutputError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")

WRITTEN = [name for name in FORMATS if FORMATS.get(name).not_written is None]
FOLDERS = [name for name in WRITTEN if FORMATS.get(name).folder]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the names of sockets must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def directory(path: Path) -> None:
    path.mkdir()
    (path / "letter").write_text("precious")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def link_to_a_file(path: Path) -> None:
    (path.parent / "file").write_text("precious")
    path.symlink_to("file")


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


def link_to_a_directory(path: Path) -> None:
    (path.parent / "empty").mkdir()
    path.symlink_to("empty")


OBSTACLES = [pipe, a_socket, directory, link_to_nothing, link_to_a_file, link_to_a_pipe, link_to_a_directory]


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint({"a.weight": torch.ones(3)}, name, {"wnconvert.test": "a record"})


def facts(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder: what it is, and what is in files."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    texts = {name: (folder / name).read_bytes() for name in found if (folder / name).is_file()}
    return {name: (each.st_mode, each.st_ino, texts.get(name, b"")) for name, each in found.items()}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("name", WRITTEN)
def test_only_files_and_new_names_are_written(
    source: Path, tmp_path: Path, name: str, obstacle: Callable[[Path], None], force: bool
) -> None:
    place = tmp_path / "there"
    place.mkdir()
    obstacle(place / "out")
    before = facts(place)
    with pytest.raises(OutputError, match=r"is a (named pipe|socket|directory|symbolic link)|exists; give --force"):
        save(checkpoint(name), place / "out", source=source, force=force)
    assert facts(place) == before


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_appears_meanwhile_is_not_replaced_either(
    source: Path, tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    place = tmp_path / "there"
    place.mkdir()
    found: list[object] = []

    def appear(written: Checkpoint) -> None:
        obstacle(place / "out")
        found.append({name: each for name, each in facts(place).items() if not name.startswith(".wnconvert")})

    with pytest.raises(OutputError, match=r"is a (named pipe|socket|directory|symbolic link)"):
        save(load(source), place / "out", source=source, force=True, verify=appear)
    assert [facts(place)] == found


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_record_replaces_only_a_record(source: Path, tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    place = tmp_path / "there"
    place.mkdir()
    obstacle(place / "out.npz.wnconvert.json")
    before = facts(place)
    with pytest.raises(OutputError, match="in the way of the record"):
        save(checkpoint("npz"), place / "out.npz", source=source, force=True)
    assert facts(place) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_an_empty_folder_and_an_older_checkpoint_are_replaced_by_force(source: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(OutputError, match="exists; give --force"):
        save(checkpoint(name), output, source=source)
    for number in range(2):
        content = {"a.weight": torch.full((3,), float(number))}
        save(Checkpoint(content, name, {}), output, source=source, force=True)
        assert torch.equal(load(output).content["a.weight"], content["a.weight"])
    (output / "letter").write_text("precious")
    with pytest.raises(OutputError, match=r"'letter', which would be lost|is no checkpoint"):
        save(checkpoint(name), output, source=source, force=True)
    assert (output / "letter").read_text() == "precious"
    assert leftovers(tmp_path, "in.pt", "out") == set()


def test_a_folder_that_gets_a_file_meanwhile_is_not_replaced(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    save(checkpoint("model_folder"), output, source=source)
    with pytest.raises(OutputError, match="'letter', which would be lost"):
        save(
            checkpoint("model_folder"),
            output,
            source=source,
            force=True,
            verify=lambda written: (output / "letter").write_text("precious") and None,
        )
    assert (output / "letter").read_text() == "precious"
    assert leftovers(tmp_path, "in.pt", "out") == set()


def test_what_killed_runs_left_is_gone_before_any_work(source: Path, tmp_path: Path) -> None:
    left, lock = scratch._make(tmp_path)
    check_output(tmp_path / "out.pt", source)
    assert left.exists(), "the run is alive"
    os.close(lock)
    check_output(tmp_path / "out.pt", source)
    assert not left.exists()
