from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wnconvert.deploying.exporting import Export
from wnconvert.deploying.proof import Compared
from wnconvert.report import Converted, Report
from wnconvert_cli.render.exported import export

RESULT = Export(
    output=Path("net.onnx"),
    target="ONNX",
    report=Report(converted=(Converted("a.weight", "", "weight_norm", ("a.weight_g", "a.weight_v")),)),
    normalizations=(1, 0),
    weights=("a.weight", "[red]b"),
    counts={"nodes": 5},
    inputs={"x": "1,T(2..)"},
    bytes=2000,
    compared=Compared(3, same_bits=True),
)


def shown(result: Export, capsys: pytest.CaptureFixture[str], *, dry_run: bool = False) -> list[str]:
    export(result, dry_run=dry_run)
    return capsys.readouterr().out.splitlines()


def test_an_export_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(RESULT, capsys) == [
        "normalized: 1 weight before, 0 after (1 weight_norm)",
        "input:     x = 1,T(2..)",
        "weights:   2 (a.weight, [red]b)",
        "verified:  outputs compared on inputs of 3 sizes: the same bits",
        "written:   net.onnx (ONNX, 2.0 kB; 5 nodes)",
    ]
    assert shown(RESULT, capsys, dry_run=True)[-1] == "dry run:   nothing written; it would be net.onnx"


@pytest.mark.parametrize(
    ("compared", "text"),
    [
        (Compared(reason="it draws"), "outputs were not compared: it draws"),
        (Compared(1, max_abs=2e-7), "outputs compared on inputs of 1 size: off by up to 2e-07"),
        (
            Compared(2, False, 1e-3, 3e-6, 2e-6),
            "of 2 sizes: off by up to 0.001 (3e-06 against float64, the model 2e-06)",
        ),
    ],
)
def test_how_it_compares_is_shown(compared: Compared, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = (each for each in shown(replace(RESULT, compared=compared), capsys) if each.startswith("verified"))
    assert line.endswith(text)
