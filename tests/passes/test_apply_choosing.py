"""Which weights ApplyPass takes, and which dims it keeps."""

from __future__ import annotations

import pytest
from torch import nn

from tests.models import WEIGHTS, build
from tests.weights.nets import One
from wnconvert import ApplyPass, Selection
from wnconvert.tracing.tracing import trace

# selection


def chosen(**options):
    """Return the names of the converted weights of the small residual network under a selection."""
    model, _ = build("conv")
    report = ApplyPass(selection=Selection(**options)).call(trace(model)).report
    names = [entry.fqn for entry in report.converted]
    # none is passed over in silence
    assert {*names, *(entry.fqn for entry in report.skipped)} == set(WEIGHTS["conv"])
    return names


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, list(WEIGHTS["conv"])),
        ({"include": ("conv1.weight",)}, ["conv1.weight"]),
        ({"include": ("conv1",)}, ["conv1.weight"]),
        ({"include": ("*n*",), "exclude": ("down*",)}, ["conv1.weight"]),
        ({"exclude": ("head", "stem.*")}, ["conv1.weight", "down.weight"]),
        ({"ops": ("linear",)}, ["head.weight"]),
        ({"ops": ("linear", "conv2d"), "exclude": ("stem",)}, ["conv1.weight", "down.weight", "head.weight"]),
        ({"min_size": 216}, ["stem.weight", "conv1.weight"]),
        ({"min_size": 217}, ["conv1.weight"]),
        ({"predicate": lambda weight: weight.shape[-1] == 1}, ["down.weight"]),
    ],
)
def test_a_selection_chooses(options, names):
    assert chosen(**options) == names


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"include": ("conv1",)}, "not included by 'conv1'"),
        ({"exclude": ("stem",)}, "excluded by 'stem'"),
        ({"ops": ("linear",)}, "not among the ops linear"),
        ({"min_size": 1000}, "has 216 elements, fewer than 1000"),
        ({"predicate": lambda weight: False}, "not chosen by the predicate"),
    ],
)
def test_what_is_not_chosen_says_why(options, reason):
    report = ApplyPass(selection=Selection(**options)).call(trace(build("conv")[0])).report
    assert {entry.fqn: entry.reason for entry in report.skipped}["stem.weight"] == reason
    assert not report.skipped[0].already


def test_a_tied_weight_is_chosen_by_either_name():
    for glob in ("tokens", "head.weight"):
        report = ApplyPass(selection=Selection(include=(glob,))).call(trace(build("transformer")[0])).report
        assert [entry.fqn for entry in report.converted] == ["tokens.weight"]


# dims


@pytest.mark.parametrize(
    ("dim", "shapes"),
    [
        (0, [(8, 1, 1), (8, 1, 1)]),
        (1, [(1, 4, 1), (1, 4, 1)]),
        (2, [(1, 1, 7), (1, 1, 4)]),
        (None, [(), ()]),
        (-1, [(), ()]),
        ("output", [(8, 1, 1), (1, 4, 1)]),
    ],
)
def test_the_dim_is_kept(dim, shapes):
    model = trace(build("vocoder")[0])
    ApplyPass(dim=dim).call(model)
    assert [tuple(model.pre.weight_g.shape), tuple(model.up.weight_g.shape)] == shapes


def test_without_a_dim_the_scheme_decides():
    by_default = trace(build("vocoder")[0])
    ApplyPass("weight_norm").call(by_default)
    assert tuple(by_default.up.weight_g.shape) == (8, 1, 1)
    by_output = trace(build("vocoder")[0])
    ApplyPass("weight_standardization").call(by_output)
    assert tuple(by_output.up.weight_gain.shape) == (1, 4, 1)


@pytest.mark.parametrize(
    ("dim", "reason"),
    [
        (4, "'stem.weight' of shape (8, 3, 3, 3) has no dim 4 (-1 means the whole tensor)"),
        (-2, "'stem.weight' of shape (8, 3, 3, 3) has no dim -2 (-1 means the whole tensor)"),
        ("input", "dim is 'input'; it must be a number, None or 'output'"),
        (True, "dim is True; it must be a number, None or 'output'"),
    ],
)
def test_a_dim_that_a_weight_has_not_is_a_reason(dim, reason):
    report = ApplyPass(dim=dim).call(trace(build("conv")[0])).report
    assert {entry.fqn: entry.reason for entry in report.skipped}["stem.weight"] == reason


def test_an_output_dim_that_does_not_exist_is_a_reason():
    model = One(lambda self, x: self.up(x.t()[None]), up=nn.ConvTranspose1d(3, 6, 3, groups=3))
    report = ApplyPass(dim="output").call(trace(model)).report
    assert report.skipped[0].reason == "no dim of 'up.weight' is its output dim; give a number"
