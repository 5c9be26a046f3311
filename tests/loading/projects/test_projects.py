"""Each row of ``docs/loading.md`` is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.loading.projects import trying
from tests.loading.projects.page import INTRODUCTION, PAGE, line
from tests.loading.projects.rows import Row, rows
from tests.loading.projects.trying import attempt

ROWS = list(rows())


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The bits of a product may depend on how many threads compute it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # those of the projects' own packages
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_lines_load_the_folded_file_and_the_page_says_what_happens_without_them(row: Row, tmp_path: Path) -> None:
    if absence := row.absence():
        pytest.skip(absence)
    tried = attempt(row, tmp_path)
    assert tried.folded
    assert line(row, tried) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_these_rows_and_no_others() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(INTRODUCTION)
    titles = [each.split(" | ")[0].removeprefix("| ") for each in text.removeprefix(INTRODUCTION).splitlines()]
    assert titles == [row.title.replace("*", "\\*") for row in ROWS]


def test_other_outputs_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ROWS if row.package is None)
    monkeypatch.setattr(trying, "checkpoint", _Forgetful())
    with pytest.raises(AssertionError, match="outputs differ"):
        attempt(row, tmp_path)


class _Forgetful:
    """What loads nothing, as ``strict=False`` does."""

    def __getattr__(self, name: str) -> object:
        from wnconvert import checkpoint

        return (lambda *args, **kwargs: None) if name == "load_into" else getattr(checkpoint, name)
