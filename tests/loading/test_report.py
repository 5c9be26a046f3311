"""What was done to load a file, as data and as text."""

from __future__ import annotations

import json

from wnconvert.loading.report import Loaded, LoadReport


def test_the_report_counts_sums_up_and_is_plain_data():
    exact = Loaded("a.weight", "folded", ("a.weight",))
    rounded = Loaded("b.weight", "split", ("b.weight_g", "b.weight_v"), 0.25)
    copied = Loaded("b.bias", "as is", ("b.bias",))
    report = LoadReport((exact, rounded, copied), "net", ("a note",))
    assert report.counts == {"folded": 1, "split": 1, "as is": 1}
    assert (report.exact, report.max_abs_error) == (False, 0.25)
    assert LoadReport((exact, copied)).exact
    data = json.loads(json.dumps(report.to_dict()))
    assert data["place"] == "net"
    assert data["loaded"][1] == {
        "name": "b.weight",
        "how": "split",
        "keys": ["b.weight_g", "b.weight_v"],
        "max_abs_error": 0.25,
    }
    assert str(report) == (
        "1 folded, 1 split, 1 as is\n  note: a note\n  a.weight: folded\n  b.weight: split, off by up to 0.25"
    )
    assert str(LoadReport(())) == "nothing to load"
