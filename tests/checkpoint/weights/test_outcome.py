from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint, op, reasons, state_dict
from wnconvert.checkpoint import apply, difference, fold
from wnconvert.errors import NothingToConvertError
from wnconvert.selection import Selection


def test_parameters_stay_parameters() -> None:
    weight = nn.Parameter(torch.randn(3, 2), requires_grad=False)
    source = checkpoint({"a.weight": weight})
    applied = apply(source, "spectral_norm", dim=0).checkpoint
    kinds = {key: isinstance(value, nn.Parameter) for key, value in applied.content.items()}
    assert kinds == {"a.weight_orig": True, "a.weight_u": False, "a.weight_v": False}
    assert not applied.content["a.weight_orig"].requires_grad
    assert isinstance(fold(applied).checkpoint.content["a.weight"], nn.Parameter)


@pytest.mark.parametrize("glob", ["model.conv", "conv.weight", "model.c*"])
def test_globs_match_with_and_without_the_path(glob: str) -> None:
    source = checkpoint({"model": state_dict()})
    report = apply(source, selection=Selection(include=(glob,))).report
    assert [entry.fqn for entry in report.converted] == ["model.conv.weight"]
    assert set(reasons(report).values()) == {f"not included by {glob!r}"}


def test_a_dim_that_a_weight_has_not_is_a_reason() -> None:
    content = {"conv.weight": torch.ones(2, 3, 4), "linear.weight": torch.ones(2, 3)}
    report = apply(checkpoint(content), dim=2).report
    assert [entry.fqn for entry in report.converted] == ["conv.weight"]
    assert "has no dim 2" in reasons(report)["linear.weight"]


def test_the_output_dim_needs_a_model() -> None:
    with pytest.raises(NothingToConvertError, match="without a model"):
        apply(checkpoint(state_dict()), dim="output")


def test_what_a_model_ties_and_a_file_does_not_keeps_its_values() -> None:
    content = {"a.weight": torch.ones(2, 3), "b.weight": torch.full((2, 3), 2.0)}
    applied = apply(checkpoint(content), ops=[op("a.weight", 2, 3, aliases=("b.weight",))])
    assert [entry.fqn for entry in applied.report.converted] == ["a.weight", "b.weight"]
    assert difference(content, fold(applied.checkpoint).checkpoint.content) is None


def test_a_weight_of_another_shape_is_left_alone() -> None:
    ops = [op("conv.weight", 8, 3, 5, 5), op("head.weight", 7, 4)]
    report = apply(checkpoint(state_dict()), ops=ops).report
    assert reasons(report) == {"conv.weight": "has shape (8, 3, 3, 3), but (8, 3, 5, 5) in the model"}
