"""Two graphs in one drawing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import wnconvert
from wnconvert.errors import OptionError
from wnconvert_cli.figures import graphs
from wnconvert_cli.figures.graphs import Marked, counts, drawn, kind_of

pytest.importorskip("graphviz")
needs_dot = pytest.mark.skipif(graphs.shutil.which("dot") is None, reason="there is no Graphviz here")


class Branch(nn.Module):
    """What no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if x.sum() > 0 else x


def marked(selection: wnconvert.Selection | None = None, back: bool = False) -> Marked:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Branch(), nn.Linear(4, 2))
    before = wnconvert.trace(net)
    if back:
        before = wnconvert.apply(before, "weight_norm", selection=selection).model
        after, report = wnconvert.fold(before)
    else:
        after, report = wnconvert.apply(before, "weight_norm", selection=selection)
    return Marked.of(before.graph, after.graph, report, before.meta.get("opaque", {}) or {"2": ""}, folded=back)


def test_what_is_applied_is_inserted_and_what_is_inside_is_in_place() -> None:
    found = marked()
    before, after = found.regions()
    assert before == {"_0": "inserted", "_2": "in place", "_3": "inserted"}
    new = {node.name for node in found.after.nodes} - {node.name for node in found.before.nodes}
    assert {name for name, region in after.items() if region == "inserted"} == new
    assert len(new) == 8
    assert counts(found) == {"inserted": 8, "folded": 0, "opaque": 0, "in place": 1}


def test_what_is_folded_is_marked_where_it_was() -> None:
    found = marked(back=True)
    before, _ = found.regions()
    assert [*before.values()].count("folded") == 8
    assert before["_2"] == "in place"


def test_what_stays_is_opaque() -> None:
    found = marked(wnconvert.Selection(include=("0*",)))
    before, after = found.regions()
    assert before == {"_0": "inserted", "_2": "opaque"}
    assert after["_2"] == "opaque"


def test_labels_are_texts_to_graphviz() -> None:
    net = nn.Module()
    hostile = '<b>"]; x [label=y] \\N\\l</b>'
    net.add_module(hostile, nn.Linear(2, 2))
    graph = torch.fx.Graph()
    graph.output(graph.call_module(hostile, (graph.placeholder("x"),)))
    assert '"\\<' not in (source := drawn("", Marked(graph, graph, "inserted", *[frozenset()] * 2), "dot").decode())
    assert 'label="<b>\\"]; x [label=y] \\\\N\\\\l</b>"' in source


@needs_dot
@pytest.mark.parametrize("kind", ["svg", "html"])
def test_the_drawing_shows_both_graphs_and_needs_nothing_else(kind: str) -> None:
    text = drawn("<script>", marked(), kind).decode()
    assert all(f">{label}<" in text for label in ("before", "after", "legend", "in place", "_weight_norm()"))
    assert "<script" not in text
    links = [link for link in re.findall(r"https?://[\w./]+", text) if not link.startswith("http://www.w3.org/")]
    assert kind == "svg" or (links == [] and "default-src 'none'" in text)


def test_what_is_missing_or_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"'g\.png' has no suffix of a graph; give .svg, .html or .dot"):
        kind_of(Path("g.png"))
    monkeypatch.setattr(graphs, "MOST", 3)
    with pytest.raises(OptionError, match=r"\d+ nodes are too many .*give -o graph\.dot"):
        drawn("", marked(), "svg")
    assert drawn("", marked(), "dot").startswith(b"digraph")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kind_of(Path("g.DOT")) == "dot"
    with pytest.raises(OptionError, match=r"the program 'dot' of Graphviz is not installed .*or give -o graph\.dot"):
        kind_of(Path("g.svg"))
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"'graphviz' is not installed; pip install 'wnconvert\[graph\]'"):
        kind_of(Path("g.dot"))


def test_a_failure_of_dot_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = subprocess.CompletedProcess([], 1, b"", b"syntax\nerror")
    monkeypatch.setattr(graphs.subprocess, "run", lambda *_, **__: failing)
    with pytest.raises(OptionError, match="dot failed on the graph: syntax error; give -o"):
        drawn("", marked(), "svg")
    assert "graphviz" in sys.modules
