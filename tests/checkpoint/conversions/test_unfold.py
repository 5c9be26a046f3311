"""Plain weights in the layouts of other software: which weights, and what a request may say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint
from tests.checkpoint.layouts import twins
from wnconvert.checkpoint import apply, bits_equal, unfold
from wnconvert.errors import NothingToConvertError, OptionError, UnknownNameError
from wnconvert.selection import WeightedOp


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_what_is_not_plain_is_reported() -> None:
    aws = {f"a.{key}": value for key, value in twins.ConvAws(3, 4, 3).state_dict().items()}
    normed = {f"b.{key}": value for key, value in nn.utils.weight_norm(nn.Conv2d(3, 4, 3)).state_dict().items()}
    ours = apply(checkpoint({"c.weight": torch.randn(4, 3, 3, 3)}), "unit_norm", dim=0).checkpoint.content
    gain = {"d.weight": torch.randn(4, 3, 3, 3), "d.gain": torch.ones(4, 1, 1, 1)}
    plain = {"e.weight": torch.randn(4, 3, 3, 3)}
    report = unfold(checkpoint({**aws, **normed, **ours, **gain, **plain}), "mmcv-conv-aws").report
    assert [entry.fqn for entry in report.converted] == ["e.weight"]
    assert {entry.fqn: (entry.reason, entry.already) for entry in report.skipped} == {
        "a.weight": ("already in layout mmcv-conv-aws", True),
        "b.weight": ("in layout weight_norm_hook; fold that first", False),
        "c.weight": ("under unit_norm; fold that first", False),
        "d.weight": ("it has a gain, as scaled weight standardization has; name the preset (nfnet) to fold it", False),
    }


def test_what_torch_spells_otherwise_is_migrated() -> None:
    normed = nn.utils.weight_norm(nn.Conv2d(3, 4, 3)).state_dict()
    with pytest.raises(NothingToConvertError, match="in layout weight_norm_hook; migrate it"):
        unfold(checkpoint(normed), "parametrization")
    with pytest.raises(NothingToConvertError, match="already in layout weight_norm_hook"):
        unfold(checkpoint(normed), "weight_norm_hook")


def test_ties_and_the_rest_of_the_file_survive() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3))
    content = {"model": {"a.weight": weight, "b.weight": weight, "step": 3}, "epoch": 7}
    unfolded = unfold(checkpoint(content), "mmcv-conv-aws")
    assert len(unfolded.report.converted) == 1
    model = unfolded.checkpoint.content["model"]
    assert model["a.weight_gamma"] is model["b.weight_gamma"] or bits_equal(
        model["a.weight_gamma"], model["b.weight_gamma"]
    )
    assert isinstance(model["a.weight"], nn.Parameter)
    assert (model["step"], unfolded.checkpoint.content["epoch"]) == (3, 7)
    assert dict(unfolded.checkpoint.metadata) == {}


def test_a_model_says_which_weights_there_are() -> None:
    content = {f"{name}.weight": torch.randn(4, 3, 3, 3) for name in "ab"}
    op = WeightedOp("a.weight", ("conv2d",), (4, 3, 3, 3), torch.float32, (0,))
    report = unfold(checkpoint(content), "parametrization", ops=[op], scheme="weight_norm", dim="output").report
    assert [(entry.fqn, entry.op) for entry in report.converted] == [("a.weight", "conv2d")]


def test_bad_requests_are_refused() -> None:
    plain = checkpoint({"a.weight": torch.randn(4, 3, 3, 3)})
    with pytest.raises(UnknownNameError, match="did you mean 'nfnet'"):
        unfold(plain, "nfnets")
    with pytest.raises(OptionError, match="layout 'dora' cannot be written"):
        unfold(plain, "dora")
    with pytest.raises(
        OptionError, match=r"scheme is 'weight_norm', but layout 'timm' is for 'weight_standardization'"
    ):
        unfold(plain, "timm", scheme="weight_norm")
    with pytest.raises(OptionError, match="dim is 1, but layout 'biggan' keeps one of its own; leave it out"):
        unfold(plain, "biggan", dim=1)
    with pytest.raises(NothingToConvertError, match=r"the key 'a\.weight_gamma' is in the way"):
        unfold(checkpoint({**plain.content, "a.weight_gamma": torch.ones(1)}), "mmcv-conv-aws")
    with pytest.raises(NothingToConvertError, match=r"torch has no spectral norm with kept dims \(\) of 4"):
        unfold(plain, "spectral_norm_hook", dim=None)
