"""Names, numbers and texts as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from wnconvert_cli.render.words import bytes_of, counted, safe, shaped, sized, some


def test_what_comes_from_a_file_is_no_markup_and_steers_no_terminal() -> None:
    text = "[bold]a[/]\x1b[2Jb\n"
    assert Text.from_markup(safe(text)).plain == "[bold]a[/]\\x1b[2Jb\\n"


@pytest.mark.parametrize(("count", "text"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")])
def test_counts_have_their_plural(count: int, text: str) -> None:
    assert counted(count, "entry", "entries") == text


def test_many_names_are_counted_rather_than_listed() -> None:
    assert Text.from_markup(some(list("abcde"))).plain == " (a, b, c, ... 2 more)"
    assert some(()) == ""


def test_shapes() -> None:
    assert Text.from_markup(shaped((3, 16))).plain == "3\N{MULTIPLICATION SIGN}16"
    assert shaped(None) == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000, "2.3 MB"), (5.1e9, "5.10 GB")]
)
def test_sizes_are_in_the_unit_in_which_they_are_short(size: float, text: str) -> None:
    assert sized(size) == text


def test_the_size_of_a_folder_is_that_of_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, size in (("a", 3), ("sub/b", 4)):
        (tmp_path / name).write_bytes(bytes(size))
    assert bytes_of(tmp_path) == 7
    assert bytes_of(tmp_path / "a") == 3
