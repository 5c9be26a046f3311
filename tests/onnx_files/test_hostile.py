"""Damaged and hostile models end in a line, or in what they should be; and nothing takes for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits processes")


def outcome(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Return how many of so many damaged models ended in which way; none may end in a wrong one."""
    command = [sys.executable, "-m", "tests.onnx_files.hostile", str(count), str(seed), str(folder / "case")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == []
    ended = told["ended"]
    assert sum(ended.values()) == count
    assert isinstance(ended, dict)
    return ended


def test_some_damaged_models_end_well(tmp_path: Path) -> None:
    ended = outcome(80, 0, tmp_path)
    assert ended["folded"] >= 10
    assert ended["CheckpointError"] >= 10


@pytest.mark.fuzz
def test_many_damaged_models_end_well(tmp_path: Path) -> None:
    count = int(os.environ.get("WNCONVERT_FUZZ", "2000"))
    ended = outcome(count, 1, tmp_path)
    assert ended["folded"] >= count // 10
    assert ended["CheckpointError"] >= count // 10
