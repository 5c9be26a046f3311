"""Killed at any moment, or out of room: the output is whole or not there, and the input is what it was.

What a killed run leaves in its folder is gone after the next one.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import run, run_process, sha
from tests.processes import run_code
from wnconvert.checkpoint import FORMATS, Checkpoint, difference, load
from wnconvert.checkpoint.storage.scratch import clear

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="only POSIX kills, and limits sizes, like that")

WRITTEN = [name for name in FORMATS if FORMATS.get(name).not_written is None]

#: one process does it once; then each try is a fork of it, in a copy of the folder ``start``
TRIES = """
import itertools, json, os, resource, shutil, signal, sys
from pathlib import Path
import torch
from wnconvert.checkpoint.storage.scratch import clear
from wnconvert_cli.main import app

torch.set_num_threads(1)  # those of OpenMP are not there after a fork, and would be waited for

arguments, sizes = json.loads(sys.argv[1]), json.loads(sys.argv[2])
CHANGES = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}

def try_it(folder, prepare, number, more=()):
    pid = os.fork()
    if pid == 0:
        try:
            if not os.path.exists(folder):
                shutil.copytree("start", folder)
            os.chdir(folder)
            prepare(number)
            app([*arguments, *more])
        except SystemExit as end:
            os._exit(end.code or 0)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die_before(step):
    # before the current folder is changed once more than so many times
    here, changes = os.path.realpath(os.getcwd()), itertools.count()
    def note(event, details):
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and not isinstance(details[0], int):
            if os.path.realpath(os.fsdecode(details[0])).startswith(here) and next(changes) == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(note)

def die_at(size):
    # in the middle of a write, at that byte
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

shutil.copytree("start", "alone")
os.chdir("alone")
try:
    app(arguments)
except SystemExit as end:
    assert not end.code, "the conversion must work when it is left alone"
os.chdir("..")
def try_and_go_on(folder, prepare, number):
    # what the killed run leaves is seen by the tests; in a copy of it, a second run is not killed, or, to save time,
    # does no more than what each does first
    code = try_it(folder, prepare, number)
    if code < 0:
        shutil.copytree(folder, f"next-{folder}", symlinks=True)
        if number % 3:
            clear(Path(f"next-{folder}"))
        else:
            again = try_it(f"next-{folder}", lambda _: None, 0, [] if "--force" in arguments else ["--force"])
            assert again == 0, again
    return code

codes = [try_and_go_on(f"size{number}", die_at, size) for number, size in enumerate(sizes)]
assert set(codes) <= {-signal.SIGXFSZ}, codes
for step in itertools.count():
    code = try_and_go_on(f"step{step}", die_before, step)
    if code != -signal.SIGKILL:
        assert code == 0, code
        break
"""
#: a write fails there instead
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


def large(path: Path, seed: int = 0) -> Path:
    """Write tensors that are large enough to be written by a thread."""
    torch.manual_seed(seed)
    save_file({f"{index}.weight": torch.randn(160, 160) for index in range(3)}, path)
    return path


def tries(folder: Path, *arguments: str, sizes: tuple[int, ...] = ()) -> tuple[list[Path], list[Path]]:
    """Run a command again and again, and kill it one step later each time, until it ends by itself.

    Args:
        folder: what is in its folder ``start`` is in the folder of each try at first.
        arguments: the command, which writes ``out``.
        sizes: also kill it at these bytes of a file.

    Returns:
        the folders of the tries, of which the last was not killed, and those of the sizes. After each one that was
        killed a copy of its folder was cleared, or the command run again in it, with success; nothing else was left
        than what one leaves that is never killed.
    """
    done = run_code(TRIES, json.dumps([*arguments, "-o", "out", "-q"]), json.dumps(sizes), cwd=folder)
    assert (done.code, done.out, done.err) == (0, "", "")
    steps = len(list(folder.glob("step*")))
    assert steps > 3, "it must have been killed some times"
    after = {each.name: {path.name for path in each.iterdir()} for each in folder.glob("next-*")}
    assert len(after) == steps - 1 + len(sizes)
    clean = {path.name for path in (folder / "alone").iterdir()}
    assert {name: names for name, names in after.items() if not names <= clean} == {}
    left = [path.name for each in folder.glob("s*") for path in each.glob(".wnconvert-*")]
    assert left, "some must have left something to clear"
    return [folder / f"step{step}" for step in range(steps)], [folder / f"size{each}" for each in range(len(sizes))]


def same(one: Checkpoint, other: Checkpoint) -> bool:
    facts: list[tuple[Any, ...]] = [(each.metadata, each.notes) for each in (one, other)]
    return facts[0] == facts[1] and difference(one.content, other.content, ordered=False) is None


@pytest.mark.parametrize("name", WRITTEN)
def test_killed_at_any_moment_the_output_is_absent_or_whole(folder: Path, name: str) -> None:
    (folder / "start").mkdir()
    source = large(folder / "in.safetensors")
    before = sha(source)
    steps, middles = tries(folder, "apply", "../in.safetensors", "--format", name, sizes=(10, 70_000, 250_000))
    assert sha(source) == before
    whole = load(folder / "alone" / "out")
    assert "wnconvert" in whole.metadata
    assert all(same(load(each / "out"), whole) for each in steps if (each / "out").exists())
    assert not any((each / "out").exists() for each in (steps[0], *middles))
    assert {path.name for path in steps[-1].iterdir()} == {path.name for path in (folder / "alone").iterdir()}


@pytest.mark.parametrize("name", ["npz", "torch_legacy"])
def test_killed_while_replacing_the_old_or_the_new_output_has_its_own_record(folder: Path, name: str) -> None:
    (folder / "start").mkdir()
    old, _ = large(folder / "old.safetensors"), large(folder / "new.safetensors", seed=1)
    assert run("apply", old, "--format", name, "-o", folder / "start" / "out", "-O", "p=1").code == 0
    steps, _ = tries(folder, "apply", "../new.safetensors", "--format", name, "--force")
    versions = [load(folder / each / "out") for each in ("start", "alone")]
    assert versions[0].metadata != versions[1].metadata
    found = [[same(load(each / "out"), version) for version in versions] for each in steps]
    count = found.count([True, False])
    assert 0 < count < len(found)
    assert found == [[True, False]] * count + [[False, True]] * (len(found) - count)


@pytest.mark.parametrize("name", [name for name in WRITTEN if FORMATS.get(name).folder])
def test_killed_while_replacing_a_folder_the_old_or_the_new_one_is_found_by_the_next_run(
    folder: Path, name: str
) -> None:
    (folder / "start").mkdir()
    old, _ = large(folder / "old.safetensors"), large(folder / "new.safetensors", seed=1)
    assert run("apply", old, "--format", name, "-o", folder / "start" / "out", "-O", "p=1").code == 0
    steps, _ = tries(folder, "apply", "../new.safetensors", "--format", name, "--force")
    versions = [load(folder / each / "out") for each in ("start", "alone")]
    between = [each for each in steps if not (each / "out").exists()]
    assert between, "it must have been killed when the old folder was moved away"
    for each in steps:
        clear(each)
    found = [[same(load(each / "out"), version) for version in versions] for each in steps]
    assert all((each / "out").exists() and same(load(each / "out"), versions[0]) for each in between)
    count = found.count([True, False])
    assert 0 < count < len(found)
    assert found == [[True, False]] * count + [[False, True]] * (len(found) - count)
    assert not any(list(each.glob(".wnconvert-*")) for each in steps)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_leaves_nothing_of_any_container(folder: Path, name: str) -> None:
    save_file({"a.weight": torch.ones(300, 300)}, folder / "in.safetensors")
    before = sha(folder / "in.safetensors")
    outcome = run_process("apply", "in.safetensors", "--format", name, cwd=folder, code=FULL)
    assert outcome.code == 1
    assert outcome.error.startswith("cannot write ")
    assert outcome.error.endswith("file too large")
    assert [path.name for path in folder.iterdir()] == ["in.safetensors"]
    assert sha(folder / "in.safetensors") == before


def test_a_full_file_system_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        save_file({"a.weight": torch.ones(400, 400)}, small / "in.safetensors")
        before = sha(small / "in.safetensors")
        outcome = run_process("apply", "in.safetensors", cwd=small)
        assert outcome.code == 1
        assert "no space left on device" in outcome.error
        assert [path.name for path in small.iterdir()] == ["in.safetensors"]
        assert sha(small / "in.safetensors") == before
    finally:
        subprocess.run(["umount", str(small)], check=True)
