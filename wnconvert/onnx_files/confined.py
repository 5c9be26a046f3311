"""Work on files that nobody vouches for, in a process of its own: it may be killed for what it takes, and die.

protobuf, onnx and onnxruntime are C++, and read what they are given. A file on which they crash, or that makes them
take all memory, ends that process, and is an error like any other here.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wnconvert.errors import CheckpointError, WnconvertError

#: bytes that the process may take besides so many times the size of its files: libraries, threads, and activations
MEMORY, RATIO = 8 << 30, 16
#: seconds of the processor that it may take besides those for each megabyte of its files
SECONDS, SECONDS_PER_MB = 300, 2
#: the process: it takes its modules from where this one does, and not from the current folder
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {own} import answer; answer(sys.argv[2])"


def confined(function: str, files: Sequence[Path], *arguments: Any) -> Any:
    """Call a function in a process of its own, and return what it returns.

    Args:
        function: its module and name, ``"package.module:function"``.
        files: what it reads, by whose size it is confined.
        arguments: what it is given; these and what it returns are pickled.

    Raises:
        WnconvertError: what the function raised.
        CheckpointError: the process died.
    """
    size = sum(file.stat().st_size for file in files)
    limits = MEMORY + RATIO * size, SECONDS + SECONDS_PER_MB * (size >> 20)
    own_path = [path for path in sys.path if path]
    with tempfile.TemporaryDirectory(prefix="wnconvert-") as folder:
        exchange = Path(folder) / "call"
        exchange.write_bytes(pickle.dumps((function, arguments, limits)))
        command = [sys.executable, "-I", "-c", _PROGRAM.format(own=__name__), json.dumps(own_path), str(exchange)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait()
        finally:
            process.kill()
            process.wait()
        answered = Path(f"{exchange}.answer")
        if process.returncode == 0 and answered.is_file():
            result, error = pickle.loads(answered.read_bytes())
            if error is not None:
                raise error
            return result
    raise CheckpointError(f"{str(files[0])!r} cannot be worked on: onnxruntime {_ended(process.returncode, limits)}")


def _ended(code: int, limits: tuple[int, int]) -> str:
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"takes more than {limits[1]} seconds"
    if code == -getattr(signal, "SIGBUS", 0):
        return "found a file cut short while it was read"
    if code < 0:
        return f"died of signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def answer(call: str) -> None:
    """Make a call that `confined` wrote down, within its limits, and write down what comes of it."""
    exchange = Path(call)
    function, arguments, limits = pickle.loads(exchange.read_bytes())
    module, _, name = function.partition(":")
    work = getattr(import_module(module), name)
    _limit(*limits)
    result: tuple[Any, WnconvertError | None]
    try:
        result = work(*arguments), None
    except WnconvertError as error:
        result = None, error
    except MemoryError:
        result = None, CheckpointError(f"it takes more memory than its size allows ({limits[0] >> 20} MB)")
    Path(f"{call}.answer").write_bytes(pickle.dumps(result))
    os._exit(0)  # what is not written by now does not count, and libraries may hang in their ends


def _limit(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, hard))
