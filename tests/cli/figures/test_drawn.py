"""Small figures as SVG."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
import torch

from wnconvert.checkpoint import Checkpoint, statistics
from wnconvert_cli.figures.drawn import HIGH, TALL, WIDE, histogram, overview, text

BINS = [0, 1, 1000, 500]


def distribution(**more):
    return {"min": 0.5, "median": 1.0, "max": 2.0, "bins": BINS, **more}


def weights(**tensors):
    return [
        each.to_dict()
        for each in statistics(
            Checkpoint({"weight" if k == "_" else f"{k}.weight": v for k, v in tensors.items()}, "torch_zip")
        )
    ]


def test_what_is_not_empty_is_seen_however_small():
    svg = ET.fromstring(histogram(distribution(), "bars"))
    assert [float(bar.attrib["height"]) for bar in svg.iter("rect")] == [1.0, HIGH, HIGH / 2]
    assert (svg.attrib["class"], svg.attrib["aria-label"]) == ("bars", "0.5 to 2, median 1")
    assert histogram({}, "bars") == histogram(distribution(bins=[]), "bars") == ""


def test_all_weights_have_a_place_within_the_figure():
    known = weights(a=torch.eye(3) * 5e-4, b=torch.zeros(3, 3), c=torch.eye(3) * 10, d=torch.full((2, 2), float("nan")))
    svg = ET.fromstring(overview(known))
    groups = [*svg.iter("g")]
    assert [group.find("title").text for group in groups] == ["a.weight", "b.weight", "c.weight"]
    lines = [*svg.iter("line")]
    assert all(0 <= float(line.attrib[name]) <= WIDE for line in lines for name in ("x1", "x2"))
    assert all(0 <= float(line.attrib[name]) <= TALL for line in lines for name in ("y1", "y2"))
    low, high = (float(group.find("line[@class='dot median']").attrib["y1"]) for group in (groups[0], groups[2]))
    assert low > high
    assert len([line for line in lines if line.attrib["class"] == "grid"]) == 5


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_nothing_is_drawn_of_nothing(value):
    assert overview(weights(a=torch.full((2, 2), value))) == ""
    assert overview([]) == ""


def test_equal_weights_are_drawn_too():
    assert len([*ET.fromstring(overview(weights(a=torch.eye(2), b=torch.eye(2)))).iter("g")]) == 2


def test_texts_are_no_markup():
    assert text("<b a=\"'&\n\x1b\ud800") == "&lt;b a=&quot;&#x27;&amp;\\n\\x1b\\ud800"
