"""What was drawn of a graph, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert_cli import render


def test_regions_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    regions = {"inserted": 1, "folded": 0, "opaque": 2, "in place": 0}
    told = {"nodes": {"before": 3, "after": 4}, "did": "applied", "regions": regions, "opaque": ["[a]", "b"]}
    render.graph(Path("g.svg"), told)
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["graph:", "3 nodes before, 4 after it was applied"],
        ["marked:", "1 node inserted, 2 nodes opaque ([a], b)"],
        ["output:", "g.svg"],
    ]
    render.graph(Path("g.svg"), {**told, "regions": {}, "opaque": []})
    assert "nothing" in capsys.readouterr().out
