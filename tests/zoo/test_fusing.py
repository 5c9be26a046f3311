"""The batch norms of every family of timm: ``python -m pytest -m zoo``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wnconvert
from tests.zoo.fusing import batch_norms, check, row, with_batch_norm

pytest.importorskip("timm")


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # those of the models' own packages
def test_batch_norms_of_every_family():
    torch.set_num_threads(1)
    for case, model, inputs in with_batch_norm():
        found = check(model, inputs)
        measured = found.report.measured if found.report else None
        assert measured is None or measured.fused < max(1e-5, 3 * measured.unfused), (case.name, measured)


def test_the_check_sees_a_norm_without_a_word(monkeypatch: pytest.MonkeyPatch):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    inputs = ((torch.randn(2, 3, 5, 5),), {})
    found = check(model, inputs)
    assert found.norms == 2
    assert row("net", found).startswith("| net | 2 | 1 | 1 no layer | ")
    fuse = wnconvert.fuse

    def silent(*args: object, **options: object) -> wnconvert.Conversion:
        fused, report = fuse(*args, **options)
        return wnconvert.Conversion(fused, wnconvert.Report(fused=report.fused, measured=report.measured))

    monkeypatch.setattr(wnconvert, "fuse", silent)
    with pytest.raises(AssertionError, match=r"norms without a word: \['3'\]"):
        check(model, inputs)
    assert len(batch_norms(model)) == 2
