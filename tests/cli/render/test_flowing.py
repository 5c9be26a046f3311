"""Text that breaks where names may."""

from __future__ import annotations

import io
import itertools
import random

import pytest
from rich.cells import cell_len
from rich.console import Console

from wnconvert_cli.render.flowing import Flowing, line_ends

NAME = "model.generator_backbone.upsampling_blocks.2.1.weight"


def lines(text: str, width: int) -> list[str]:
    ends = [0, *line_ends(text, width), len(text)]
    return [text[start:end].rstrip() for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("width", [40, 30, 22])
def test_a_name_breaks_after_its_dots(width: int) -> None:
    shown = lines(NAME, width)
    assert len(shown) > 1
    assert all(line.endswith(".") for line in shown[:-1])


def test_a_name_without_a_dot_nearby_breaks_between_its_words() -> None:
    assert lines("upsampling_blocks_of_the_generator", 20) == ["upsampling_blocks_", "of_the_generator"]


def test_what_has_no_place_to_break_fills_the_line() -> None:
    assert lines("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


def test_a_word_that_one_line_holds_is_not_broken() -> None:
    assert lines("the state of model.optimizer", 20) == ["the state of", "model.optimizer"]


def test_a_long_name_begins_on_a_line_of_its_own_where_that_holds_more_of_it() -> None:
    assert lines("1 weight (generator_backbone.upsampling_blocks)", 24) == [
        "1 weight",
        "(generator_backbone.",
        "upsampling_blocks)",
    ]


def test_nothing_is_cut_and_no_line_is_too_long() -> None:
    random.seed(0)
    for _ in range(500):
        text = "".join(random.choices("ab._/ 音", k=random.randint(0, 60)))
        width = random.randint(2, 30)
        shown = lines(text, width)
        assert "".join("".join(shown).split()) == "".join(text.split())
        assert all(cell_len(line) <= width for line in shown), (text, width)


def test_markup_survives_a_break() -> None:
    out = Console(file=io.StringIO(), width=12, force_terminal=True, color_system="standard")
    out.print(Flowing(f"[bold]{NAME}[/]"))
    assert all(line.startswith("\x1b[1m") for line in out.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_wide_output_is_one_line() -> None:
    out = Console(file=io.StringIO(), width=12, soft_wrap=True)
    out.print(Flowing(NAME))
    assert out.file.getvalue() == f"{NAME}\n"  # type: ignore[attr-defined]
