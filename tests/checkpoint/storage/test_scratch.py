"""Folders of runs that live, of runs that were killed, and of runs elsewhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.checkpoint.conftest import leftovers
from tests.processes import run_code
from wnconvert.checkpoint.storage import scratch as module
from wnconvert.checkpoint.storage.scratch import clear, scratch

pytestmark = pytest.mark.skipif(module.fcntl is None, reason="there are no locks here")

#: leaves a folder as a killed run does, with what is given it in it
KILLED = """
import os, sys
from pathlib import Path
from wnconvert.checkpoint.storage.scratch import scratch

with scratch(Path.cwd()) as room:
    for name in sys.argv[1:]:
        path = room.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os._exit(9)
"""


def killed(folder: Path, *names: str) -> Path:
    """Return the folder that a killed run left."""
    assert run_code(KILLED, *names, cwd=folder).code == 9
    return next(folder.glob(".wnconvert-*"))


def test_what_a_killed_run_left_is_removed_whoever_has_its_number_now(tmp_path: Path) -> None:
    left = killed(tmp_path, "new/out.pt", "new/out.pt.wnconvert.json", "new/folder/deep/file")
    (left / "new" / "folder").chmod(0o500)
    assert (left / "new" / "out.pt").exists()
    clear(tmp_path)
    assert leftovers(tmp_path) == set()


def test_what_a_living_run_writes_stays(tmp_path: Path) -> None:
    with scratch(tmp_path) as room:
        room.new("out.pt").write_text("half")
        os.utime(room.path, (0, 0))
        clear(tmp_path)
        done = run_code(
            "from pathlib import Path; from wnconvert.checkpoint.storage.scratch import clear; clear(Path.cwd())",
            cwd=tmp_path,
        )
        assert (done.code, done.err) == (0, "")
        assert room.new("out.pt").read_text() == "half"
    assert leftovers(tmp_path) == set()


def test_a_folder_is_nobodys_business(tmp_path: Path) -> None:
    with scratch(tmp_path) as room:
        assert room.path.stat().st_mode & 0o777 == 0o700


def test_what_another_machine_left_is_removed_once_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed(tmp_path, "new/out.pt")
    monkeypatch.setattr(module, "_machine", lambda: "another")
    clear(tmp_path)
    assert left.exists(), "it may live, with a lock that is not seen from here"
    long_ago = time.time() - module.ABANDONED - 60
    for path in (*left.rglob("*"), left):
        if path.name != "out.pt":
            os.utime(path, (long_ago, long_ago))
    clear(tmp_path)
    assert left.exists(), "it was written to a moment ago"
    os.utime(left / "new" / "out.pt", (long_ago, long_ago))
    clear(tmp_path)
    assert leftovers(tmp_path) == set()


def test_what_is_no_folder_of_a_run_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    names = [f".wnconvert-{module._machine()}-{number}.tmp" for number in range(3)]
    (tmp_path / names[0]).write_text("a file")
    (tmp_path / names[1]).symlink_to("elsewhere")
    (tmp_path / names[2]).mkdir()
    (tmp_path / names[2] / "lock").symlink_to(tmp_path / "elsewhere" / "precious")
    clear(tmp_path)
    assert leftovers(tmp_path) == {"elsewhere", *names}
    assert (tmp_path / "elsewhere" / "precious").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_others_own_stays(tmp_path: Path) -> None:
    left = killed(tmp_path)
    os.chown(left, 12345, 12345)
    clear(tmp_path)
    assert left.exists()
    os.chown(left, os.geteuid(), os.getegid())
    clear(tmp_path)
    assert leftovers(tmp_path) == set()


def test_a_folder_that_was_moved_away_is_put_back(tmp_path: Path) -> None:
    killed(tmp_path, "new/out/weights", "old/out/weights")
    clear(tmp_path)
    assert leftovers(tmp_path, "out") == set()
    assert (tmp_path / "out" / "weights").read_text() == "old/out/weights"


def test_a_folder_that_was_replaced_is_not_put_back(tmp_path: Path) -> None:
    killed(tmp_path, "old/out/weights")  # whoever was given the new one may have moved it on
    clear(tmp_path)
    assert leftovers(tmp_path) == set()


def test_where_the_place_was_taken_meanwhile_nothing_is_lost(tmp_path: Path) -> None:
    left = killed(tmp_path, "new/out/weights", "old/out/weights")
    (tmp_path / "out").mkdir()
    clear(tmp_path)
    assert (left / "old" / "out" / "weights").exists()
    (tmp_path / "out").rmdir()
    clear(tmp_path)
    assert (tmp_path / "out" / "weights").read_text() == "old/out/weights"


def test_a_folder_that_cannot_be_replaced_is_there_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "weights").write_text("old")
    replace = Path.replace

    def fail_once(self: Path, target: Path) -> Path:
        if self.parent.name == module.NEW:
            raise OSError("no")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with scratch(tmp_path) as room:
        room.new("out").mkdir()
        with pytest.raises(OSError, match="no"):
            room.place(output)
    assert (output / "weights").read_text() == "old"
    assert leftovers(tmp_path, "out") == set()


def test_a_run_whose_folder_is_taken_for_a_left_one_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    mkdir = Path.mkdir

    def cleared(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        mkdir(self, mode, parents, exist_ok)
        if self.parent == tmp_path and len(taken) < 2:
            taken.append(self)
            clear(tmp_path)  # by another run, before there is a lock

    monkeypatch.setattr(Path, "mkdir", cleared)
    with scratch(tmp_path) as room:
        assert len(taken) == 2
        assert room.path not in taken
        assert not any(path.exists() for path in taken)


def test_where_there_are_no_locks_runs_work_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed(tmp_path)
    monkeypatch.setattr(module, "_take", lambda lock: None)
    with scratch(tmp_path) as room:
        room.new("out").write_text("new")
        room.place(tmp_path / "out")
        clear(tmp_path)
        assert room.path.exists()
    assert leftovers(tmp_path, "out", left.name) == set()
