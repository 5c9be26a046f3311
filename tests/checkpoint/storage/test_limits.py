from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert.checkpoint.storage.limits import LEAST, RATIO, STEPS, Budget, most_bytes
from wnconvert.errors import CheckpointError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(bytes(100))
    return tmp_path / "a"


def test_a_small_file_may_make_as_much_as_any_and_a_large_one_a_multiple_of_its_size() -> None:
    assert [most_bytes(size) for size in (0, 1 << 20, 1 << 30)] == [LEAST, LEAST, RATIO << 30]


def test_what_is_left_goes_down_to_nothing(path: Path) -> None:
    budget = Budget(path)
    budget.step(STEPS - 1)
    budget.step(1)
    budget.copy(LEAST)
    for take in (budget.step, budget.copy):
        with pytest.raises(CheckpointError, match=f"{str(path)!r} makes far more work than its 100 bytes allow"):
            take(1)


def test_a_large_file_has_a_step_for_each_byte(path: Path) -> None:
    path.write_bytes(bytes(STEPS + 7))
    Budget(path).step(STEPS + 7)
