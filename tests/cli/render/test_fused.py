from __future__ import annotations

import pytest

from wnconvert.report import Fused, Measured, Report
from wnconvert_cli.render.fused import fused
from wnconvert_cli.render.screen import console

FUSED = Fused("bn", "batch_norm", ("conv.weight",), "after")


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        (Report(), [""]),
        (
            Report(fused=(FUSED,)),
            [
                "fused:     1 normalization (1 batch_norm) (bn)",
                "error:     not measured, for there are no inputs to measure it on",
            ],
        ),
        (
            Report(fused=(FUSED, FUSED), measured=Measured(2e-7, 3e-7, "float32", "given")),
            [
                "fused:     2 normalizations (2 batch_norm) (bn, bn)",
                "error:     3e-07 against float64, unfused 2e-07 (float32, given inputs)",
            ],
        ),
    ],
)
def test_what_was_fused_and_how_far_it_is(report: Report, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with console() as out:
        fused(out, report)
    assert capsys.readouterr().out.splitlines() == lines
