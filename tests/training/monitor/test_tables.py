"""Records as rows of words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from wnconvert.training.monitor.measuring import Record
from wnconvert.training.monitor.tables import COLUMNS, GAP, cells, fitted, is_ill, text_of

NUMBERS = dict.fromkeys(COLUMNS.values(), -1.2345e-5) | {"step": 40, "dead": 0, "exploding": 12}
RECORD = Record(weight="layers.0.attention.query.weight", scheme="weight_norm", **NUMBERS)


def width_of(headers: list[str], rows: list[list[str]]) -> int:
    widths = {sum(map(len, row)) + GAP * (len(row) - 1) for row in (headers, *rows)}
    assert len(widths) == 1
    return widths.pop()


@pytest.mark.parametrize("name", [RECORD.weight, "0.weight"])
@pytest.mark.parametrize("room", range(8, 200, 4))
def test_a_table_has_the_columns_that_there_is_room_for(room, name):
    headers, rows = fitted([replace(RECORD, weight=name), replace(RECORD, weight="1.weight")], room)
    shown = [header.strip() for header in headers]
    assert shown == [key for key in ("weight", *COLUMNS) if key in shown]
    assert {"weight", "dead", "exploding"} <= {*shown}
    assert width_of(headers, rows) <= max(room, len("weight") + len("dead") + len("exploding") + 2 * GAP)


def test_names_and_the_norm_stay_longest():
    def shown(room: int) -> list[str]:
        return [header.strip() for header in fitted([RECORD], room)[0]]

    assert shown(200) == ["weight", *(key for key in COLUMNS if key != "step")]
    assert shown(80) == ["weight", "norm", "angle", "eff. lr", "dead", "exploding"]
    assert shown(58) == ["weight", "norm", "dead", "exploding"]
    assert shown(40) == ["weight", "dead", "exploding"]


def test_a_name_that_is_too_long_keeps_its_end():
    _, [row] = fitted([RECORD], 36)
    assert row[0] == "..0.attention.query"


def test_the_ending_of_all_names_is_left_out():
    one, other = fitted([RECORD, replace(RECORD, weight="head.weight")], 200)[1]
    assert (one[0].strip(), other[0].strip()) == ("layers.0.attention.query", "head")
    one, other = fitted([RECORD, replace(RECORD, weight="rnn.weight_hh_l0")], 200)[1]
    assert (one[0].strip(), other[0].strip()) == (RECORD.weight, "rnn.weight_hh_l0")


def test_a_name_has_no_control_codes():
    _, [row] = fitted([replace(RECORD, weight="\x1b[31m.weight")], 200)
    assert row[0] == r"\x1b[31m"


def test_what_nothing_has_is_no_column():
    headers, _ = fitted([Record(1, "weight", "unit_norm", norm=1.0, dead=0, exploding=0)], 200)
    assert [header.strip() for header in headers] == ["weight", "norm", "dead", "exploding"]


def test_the_text_has_all_columns():
    lines = text_of([RECORD, replace(RECORD, weight="a")]).splitlines()
    assert len({*map(len, lines)}) == 1
    assert lines[2].split() == ["a", *cells(RECORD)]
    assert text_of([]).split()[:3] == ["weight", "step", "norm"]


@pytest.mark.parametrize(
    ("change", "ill"),
    [
        ({}, False),
        ({"norm": None, "dead": None}, False),
        ({"dead": 1}, True),
        ({"exploding": 1}, True),
        ({"tangential": math.nan}, True),
        ({"norm": math.inf}, True),
    ],
)
def test_a_weight_is_ill_with_rows_or_numbers_that_are_lost(change, ill):
    assert is_ill(replace(RECORD, exploding=0, **{"dead": 0} | change) if "exploding" not in change else RECORD) is ill
