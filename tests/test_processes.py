from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.processes import START_METHOD, run_code, started


def test_a_program_is_run_as_python_runs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SAID", "here")
    code = "import os, sys; print(__name__, sys.argv, os.getcwd(), os.environ['SAID']); print('no', file=sys.stderr)"
    done = run_code(code, 1, "a b", cwd=tmp_path)
    assert done.out == f"__main__ {['-c', '1', 'a b']} {os.path.realpath(tmp_path)} here\n"
    assert (done.code, done.err) == (0, "no\n")


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(3)", 3), ("exit('x')", 1), ("1/0", 1)])
def test_the_exit_code_is_that_of_the_program(code, expected, tmp_path):
    assert run_code(code, cwd=tmp_path).code == expected


def test_it_knows_nothing_of_this_process_and_of_others(tmp_path, monkeypatch):
    import wnconvert

    monkeypatch.setattr(wnconvert, "left", 1, raising=False)
    code = "import sys; print('wnconvert' in sys.modules); import wnconvert; print(hasattr(wnconvert, 'left'))"
    for _ in range(2):
        assert run_code(f"{code}; wnconvert.left = 2", cwd=tmp_path).out == "False\nFalse\n"


@pytest.mark.skipif(START_METHOD != "forkserver", reason="each process imports torch by itself here")
def test_torch_is_there_at_once(tmp_path):
    assert run_code("import sys; print('torch' in sys.modules)", cwd=tmp_path).out == "True\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals that kill")
def test_it_is_killed_when_nobody_waits_for_it(tmp_path):
    with started("import time; time.sleep(600)", cwd=tmp_path) as (process, _, _):
        assert process.is_alive()
    assert process.exitcode == -signal.SIGKILL
