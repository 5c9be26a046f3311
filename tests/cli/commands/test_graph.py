"""``wnconvert graph``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import document, report, run

pytest.importorskip("graphviz")


def test_a_graph_is_drawn(module: str, folder: Path) -> None:
    outcome = run("graph", f"{module}:build", "-o", "g.dot")
    assert outcome.code == 0
    assert "nodes inserted" in outcome.out
    source = Path("g.dot").read_text("utf-8")
    assert all(text in source for text in ("cluster_before", "cluster_after", "conv.weight_v"))
    assert run("graph", f"{module}:build", "-o", "g.dot").error.startswith("output 'g.dot' exists; give --force")
    data = report(run("graph", f"{module}:build", "-o", "g.dot", "--force", "-x", "head", "--json"))
    assert (data["did"], data["output"], data["opaque"]) == ("applied", "g.dot", [])
    assert data["nodes"]["after"] > data["nodes"]["before"]
    assert "head.weight_v" not in Path("g.dot").read_text("utf-8")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("-o", "g.png"), 2, "has no suffix of a graph"),
        (("-o", "g.dot", "-s", "weight_nrom"), 2, "weight_nrom"),
        (("-o", "none/g.dot"), 1, "in no existing folder"),
        (("-o", "g.dot", "-i", "nothing"), 3, "nothing"),
    ],
)
def test_what_cannot_be_drawn_leaves_nothing(
    module: str, folder: Path, more: tuple[str, ...], code: int, message: str
) -> None:
    before = {*folder.iterdir()}
    outcome = run("graph", f"{module}:build", *more, "--json")
    data = document(outcome)
    assert (outcome.code, data["exit_code"]) == (code, code)
    assert message in data["error"]["message"]
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == before
