"""Reports as data."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

from wnconvert.reasons import Why
from wnconvert.report import Converted, Fused, Measured, Report, Skipped, layers

CONVERTED = Converted("a.weight", "linear", "weight_norm", ("a.weight_g", "a.weight_v"), (1,))
CHANGED = Converted("b.weight", "linear", "unit_norm", ("b.weight_direction",), (1,), max_abs_error=0.5)
SKIPPED = Skipped("c.weight", "", Why.NOT_CHOSEN(exclude="'c'"))


def test_reports_add_up() -> None:
    report = Report((CONVERTED,), notes=("one",)) + Report((CHANGED,), (SKIPPED,), ("two",))
    assert report == Report((CONVERTED, CHANGED), (SKIPPED,), ("one", "two"))


def test_what_was_done_at_a_glance() -> None:
    assert Report((CONVERTED,)).modified
    assert not Report(skipped=(SKIPPED,)).modified
    assert Report((CONVERTED,)).exact
    assert not Report((CONVERTED, CHANGED)).exact


def test_a_report_is_ready_for_json() -> None:
    text = json.dumps(Report((CONVERTED,), (SKIPPED,)).to_dict())
    assert json.loads(text)["converted"][0]["keys"] == ["a.weight_g", "a.weight_v"]
    assert json.loads(text)["skipped"] == [
        {"fqn": "c.weight", "op": "", "reason": "excluded by 'c'", "why": "NOT_CHOSEN"}
        | {"already": False, "missed": False, "keys": []}
    ]


def test_only_the_reason_tells_whether_a_weight_is_in_the_wanted_state() -> None:
    assert Skipped("c.weight", "", Why.ALREADY_SPLIT(scheme="weight_norm")).already
    assert not Skipped("already.weight", "", Why.NOT_CHOSEN(exclude="'already'")).already


def test_a_report_reads_as_a_list() -> None:
    assert str(Report((CONVERTED,), (SKIPPED,))).splitlines() == [
        "1 converted, 1 skipped (graph)",
        "  a.weight: weight_norm",
        "  c.weight: skipped, excluded by 'c'",
    ]


def test_a_report_shows_notes_and_the_way_of_each_weight() -> None:
    in_place = replace(CHANGED, how="in place")
    assert str(Report((CONVERTED, in_place), (), ("the graph is fixed in training mode",))).splitlines() == [
        "2 converted, 0 skipped",
        "  note: the graph is fixed in training mode",
        "  a.weight: weight_norm, graph",
        "  b.weight: unit_norm, in place, off by up to 0.5",
    ]
    assert str(Report()) == "0 converted, 0 skipped"


def test_layers_are_told_in_words() -> None:
    assert layers(["conv2d", "ConvTranspose", "linear"]) == "2 convolutions and 1 other layer"
    assert layers(["conv1d"]) == "1 convolution"
    assert layers(["linear", "lstm"]) == "2 layers"


def test_a_notebook_shows_groups_and_no_markup_of_names() -> None:
    hostile = replace(CHANGED, fqn="<script>alert('x')</script>&.weight")
    more = tuple(replace(CONVERTED, fqn=f"layers.{index}.weight") for index in range(100))
    html = Report((CONVERTED, *more, hostile), (SKIPPED,), ("a <b>note</b>",))._repr_html_()
    seen = ET.fromstring(html)  # every element is closed, and every name escaped
    assert {each.tag for each in seen.iter()} == {"div", "strong", "details", "summary", "ul", "li", "code"}
    assert seen.findtext("strong") == "102 converted, 1 skipped"
    assert [each.text for each in seen.iter("summary")] == [
        "weight_norm, graph (101 weights)",
        "unit_norm, graph (1 weight)",
        "skipped, excluded by 'c' (1 weight)",
    ]
    assert seen.findtext("div") == "note: a <b>note</b>"
    names = [each.text for each in seen.iter("code")]
    assert names[-2:] == ["<script>alert('x')</script>&.weight, off by up to 0.5", "c.weight"]


def test_a_notebook_shows_what_was_fused_and_measured() -> None:
    fused = Fused("bn", "batch_norm", ("conv.weight",), "after")
    html = Report(fused=(fused,), measured=Measured(1e-7, 2e-7, "float32", "random"))._repr_html_()
    seen = ET.fromstring(html)
    assert seen.findtext("strong") == "0 converted, 1 fused, 0 skipped"
    assert [each.text for each in seen.iter("code")] == ["bn into conv.weight"]
    assert "unfused 1e-07" in (seen.findtext("div") or "")
