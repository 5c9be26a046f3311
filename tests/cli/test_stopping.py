"""Asked to stop at any moment, and inputs that are cut short while they are read: one line, and nothing half-done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import run_fresh, run_process
from tests.processes import run_code
from wnconvert.checkpoint.storage import scratch
from wnconvert_cli.stopping import stoppable

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that gets SIGTERM at once")
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])

#: a process that gets signals while it imports torch, where whatever is raised is swallowed
SWALLOWED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell makes its background jobs ignore
number, times = int(sys.argv.pop(1)), int(sys.argv.pop(1))
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            sys.meta_path.remove(self)
            for _ in range(times):
                try:
                    signal.raise_signal(number)
                    reached = True
                except BaseException:
                    reached = False
            print("raised" if not reached else "waiting", flush=True)
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def source(folder: Path) -> Path:
    torch.save({f"{number}.weight": torch.ones(64, 64) for number in range(40)}, folder / "a.pt")
    return folder / "a.pt"


@SIGNALS
def test_a_signal_while_torch_is_imported_is_not_swallowed(source: Path, signum: signal.Signals) -> None:
    outcome = run_fresh(int(signum), 1, "apply", source.name, cwd=source.parent, code=SWALLOWED)
    assert outcome.out == "waiting\n"
    assert outcome.code == 128 + signum
    assert outcome.error.endswith("; nothing was written")
    assert [path.name for path in source.parent.iterdir()] == ["a.pt"]


def test_who_asks_twice_does_not_wait(source: Path) -> None:
    outcome = run_fresh(int(signal.SIGTERM), 2, "apply", source.name, cwd=source.parent, code=SWALLOWED)
    assert outcome.out == "raised\n"


#: a process that is asked to stop when the output has its place, but nobody has been told
LATE = """
import os, signal
import wnconvert_cli.render as render
def stop(*args, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("it goes on")
render.conversion = stop
"""


def test_what_was_written_before_is_told(source: Path) -> None:
    outcome = run_process("apply", source.name, cwd=source.parent, code=LATE)
    assert outcome.code == 143
    assert outcome.error == "terminated; 'a.weight_norm.pt' was written"
    assert (source.parent / "a.weight_norm.pt").exists()


#: a process whose input is cut short when it has been read, and is mapped
CUT = """
import os
import wnconvert.checkpoint as c
load = c.load
def cut(path, *args, **more):
    content = load(path, *args, **more)
    os.truncate(path.path if hasattr(path, "path") else path, 8192)
    return content
c.load = cut
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="the system does not tell")
@pytest.mark.parametrize("arguments", [("apply",), ("apply", "--json"), ("apply", "--scheme", "spectral_norm")])
@pytest.mark.parametrize("size", [64, 1024])
def test_an_input_that_is_cut_short_is_one_error(folder: Path, arguments: tuple[str, ...], size: int) -> None:
    torch.save({f"{number}.weight": torch.randn(size, size) for number in range(5)}, folder / "a.pt")
    outcome = run_process(*arguments, "a.pt", cwd=folder, code=CUT)
    assert outcome.code == 1
    assert "an input was cut short while it was read" in outcome.error
    assert [path.name for path in folder.iterdir()] == ["a.pt"]


#: a process of which two threads find at once that their input was cut short
TWICE = """
import signal, threading, time
from wnconvert_cli.stopping import stoppable
def cut():
    print("cut", flush=True)
    time.sleep(0.5)
with stoppable(cut):
    for _ in range(2):
        threading.Thread(target=signal.raise_signal, args=(signal.SIGBUS,)).start()
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="the system does not tell")
def test_that_an_input_is_cut_short_is_said_once_by_whichever_thread(folder: Path) -> None:
    done = run_code(TWICE, cwd=folder)
    assert (done.code, done.out) == (1, "cut\n")


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with stoppable(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_was_asked_during_imports_alone_is_heeded_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wnconvert_cli.stopping._is_importing", lambda frame: True)
    with pytest.raises(SystemExit, match="143"), stoppable(lambda: None):
        signal.raise_signal(signal.SIGTERM)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stoppable(lambda: None):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_was_begun_can_be_abandoned(tmp_path: Path) -> None:
    with scratch.scratch(tmp_path) as room:
        room.new("x").write_bytes(b"half")
        scratch.abandon()
        assert list(tmp_path.iterdir()) == []
