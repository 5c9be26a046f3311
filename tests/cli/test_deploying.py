from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert_cli.deploying import Wanted


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("a.py:build", None),
        ("package.module:Class", None),
        ("model.pt", Path("model.pt")),
        ("/a/b.pt2", Path("/a/b.pt2")),
    ],
)
def test_a_colon_makes_a_factory(source: str, file: Path | None) -> None:
    assert Wanted(source).file == file


def test_a_file_may_have_a_colon_in_its_name(folder: Path) -> None:
    (folder / "epoch:3.pt").touch()
    assert Wanted("epoch:3.pt").file == Path("epoch:3.pt")
