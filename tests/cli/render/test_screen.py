"""Where results appear."""

from __future__ import annotations

import pytest

from wnconvert_cli.render.screen import console, facts, table_of


def show(*what: object) -> None:
    with console() as out:
        for each in what:
            out.print(each)


def test_piped_output_has_lines_as_long_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("weight", "count", right=["count"])
    table.add_row("blocks." * 60, "3")
    show("word " * 100, table)
    text, head, row = capsys.readouterr().out.splitlines()
    assert text == ("word " * 100).rstrip()
    assert head.split() == ["weight", "count"]
    assert row.split() == ["blocks." * 60, "3"]


def test_a_narrow_terminal_breaks_names_in_cells_at_their_dots(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = facts()
    table.add_row("plain", "model.generator.blocks.0.weight")
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["plain", "model.generator.blocks."], ["0.weight"]]
    assert all(len(line) <= 30 for line in lines)


def test_lines_have_no_spaces_at_their_ends(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("a", "b")
    table.add_row("long long", "")
    show(table)
    assert all(line == line.rstrip() for line in capsys.readouterr().out.splitlines())
