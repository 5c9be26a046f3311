"""Killed at any moment, or out of room: the output is whole or not there, and the input is what it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import sha
from wnconvert.checkpoint import FORMATS, difference, load

#: one process imports everything; each try is a fork of it that is killed after a while.
TRIES = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import wnconvert.checkpoint as checkpoint
from wnconvert_cli.main import app
arguments, output, tries = sys.argv[1:-2], sys.argv[-2], int(sys.argv[-1])
[checkpoint.FORMATS.get(name) for name in checkpoint.FORMATS]

def start():
    pid = os.fork()
    if pid == 0:
        try:
            app(arguments)
        finally:
            os._exit(0)
    return pid

start_time = time.perf_counter()
os.waitpid(start(), 0)
duration = time.perf_counter() - start_time
assert os.path.exists(output), "the conversion must work when it is left alone"
chance = random.Random(0)
for number in range(tries):
    os.rename(output, output + ".last") if os.path.exists(output) and "--force" not in arguments else None
    pid = start()
    time.sleep(duration * chance.uniform(0, 1.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(json.dumps({"there": os.path.exists(output)}), flush=True)
    if sys.stdin.readline() != "next\\n":
        break
"""


def tries(folder: Path, count: int, *arguments: str) -> Iterator[bool]:
    """Kill a command that writes ``out`` so many times; give after each whether the output is there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    with subprocess.Popen(
        [sys.executable, "-c", TRIES, *arguments, "-o", "out", "-q", "out", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)["there"]
            process.stdin.write("next\n")
            process.stdin.flush()
    assert process.returncode == 0


def large(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file({f"{index}.weight": torch.randn(256, 256) for index in range(24)}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [("safetensors", 50), ("torch_zip", 15), ("safetensors_sharded", 15), ("npz", 15), ("torch_legacy", 15)],
)
def test_killed_at_any_moment_the_output_is_absent_or_whole(folder: Path, name: str, count: int) -> None:
    source, output = large(folder / "in.safetensors"), folder / "out"
    before = sha(source)
    whole, outcomes = None, []
    for there in tries(folder, count, "apply", source.name, "--format", name):
        outcomes.append(there)
        assert sha(source) == before
        if there:
            found = load(output)
            whole = whole or found
            assert difference(whole.content, found.content, ordered=False) is None
            assert (found.metadata, found.notes) == (whole.metadata, ())
            assert "wnconvert" in found.metadata
        for last in folder.glob("out.last"):
            subprocess.run(["rm", "-r", last], check=True)
    assert len(outcomes) == count
    assert outcomes.count(False) > count // 10, "some must have been killed in time"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["npz", "torch_legacy"])
def test_killed_while_replacing_the_old_or_the_new_output_has_its_own_record(folder: Path, name: str) -> None:
    old, new = large(folder / "old.safetensors"), large(folder / "new.safetensors", seed=1)
    assert run_alone(folder, "apply", old.name, "--format", name, "-o", "kept", "-O", "p=1").returncode == 0
    expected = [load(folder / "kept"), None]
    for _ in tries(folder, 30, "apply", new.name, "--format", name, "--force"):
        found = load(folder / "out")
        is_new = difference(expected[0].content, found.content, ordered=False) is not None
        same = expected[is_new] = expected[is_new] or found
        assert difference(same.content, found.content, ordered=False) is None
        assert (found.metadata, found.notes) == (same.metadata, ())
        for suffix in ("", ".wnconvert.json"):
            shutil.copy(folder / f"kept{suffix}", folder / "copy")  # what was loaded is mapped, and must stay
            (folder / "copy").replace(folder / f"out{suffix}")
    assert expected[1] is not None
    assert expected[0].metadata != expected[1].metadata


def run_alone(folder: Path, *arguments: object, limit: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, after the code of ``limit``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    code = f"{limit}\nfrom wnconvert_cli.main import app; app()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS.get(name).not_written is None])
def test_a_full_disk_leaves_nothing_of_any_container(folder: Path, name: str) -> None:
    save_file({"a.weight": torch.ones(300, 300)}, folder / "in.safetensors")
    before = sha(folder / "in.safetensors")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    done = run_alone(folder, "apply", "in.safetensors", "--format", name, limit=limit)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write ")
    assert done.stderr.endswith("file too large\n")
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
        done = run_alone(small, "apply", "in.safetensors")
        assert done.returncode == 1
        assert "no space left on device" in done.stderr
        assert [path.name for path in small.iterdir()] == ["in.safetensors"]
        assert sha(small / "in.safetensors") == before
    finally:
        subprocess.run(["umount", str(small)], check=True)
