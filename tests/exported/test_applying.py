"""Normalization nodes in a program, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wnconvert
from tests.exported.programs import (
    OPTIONS,
    STAGES,
    assert_same_program,
    assert_same_state,
    exported,
    loaded,
    normalized,
    outputs,
)
from tests.graph.snapshot import assert_same_outputs
from tests.helpers import variant_id, variants
from wnconvert.verification import same_bits

X = torch.linspace(-1, 1, 12).view(3, 4)
OF_ONE_MODE = [scheme for scheme in variants() if not scheme.state and not scheme.shared]
PARTS = ("weight_g", "weight_v")


@pytest.fixture(scope="module")
def model():
    return wnconvert.fold(normalized()).model


@pytest.mark.parametrize("stage", STAGES)
def test_it_computes_the_same_bits_and_folds_to_the_very_program(stage, model):
    plain = exported(model, stage)
    expected = outputs(copy.deepcopy(plain))
    applied, report = wnconvert.apply(plain)
    assert [entry.fqn for entry in report.converted] == [
        *("first.weight", "hooked.weight", "spectral.weight", "linear.weight", "frozen.weight")
    ]
    assert report.exact
    assert report.notes == ("run on inputs of 3 sizes, the program gives the same outputs as before, bit for bit",)
    assert_same_outputs(outputs(copy.deepcopy(applied)), expected)
    assert [key for key in applied.state_dict if key.startswith("first")] == [f"first.{p}" for p in (*PARTS, "bias")]
    assert all(applied.state_dict[f"tied.{p}"] is applied.state_dict[f"linear.{p}"] for p in PARTS)
    assert not any(applied.state_dict[f"frozen.{part}"].requires_grad for part in PARTS)
    assert_same_outputs(outputs(plain), expected)
    back = wnconvert.fold(loaded(applied) if stage.startswith("loaded") else applied).program
    assert_same_program(back, plain)
    assert_same_state(back, plain)


class Net(nn.Module):
    """Weights of several ranks and kinds, one of them depthwise in channels_last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, groups=3).to(memory_format=torch.channels_last)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.table, self.head = nn.Embedding(5, 6), nn.Linear(6, 4)
        self.lstm = nn.LSTM(4, 3)

    def forward(self, image, ids):
        return self.up(self.conv(image)), self.lstm(self.head(self.table(ids)))[0]


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights:UserWarning")  # of export itself
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scheme", OF_ONE_MODE, ids=variant_id)
def test_every_scheme_of_one_mode_goes_into_a_program_and_out(scheme, dtype):
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 6, 6, dtype=dtype), torch.tensor([[1, 0, 4]]))
    program = torch.export.export(Net().to(dtype).eval(), inputs)
    applied, report = wnconvert.apply(program, scheme)
    assert {entry.fqn for entry in report.converted} >= {
        "conv.weight",
        "up.weight",
        "table.weight",
        "head.weight",
        "lstm.weight_hh_l0",
    }
    assert all(entry.scheme == scheme.name for entry in report.converted)
    applied.validate()
    back = wnconvert.fold(loaded(applied)).program
    assert ("bit for bit" in report.notes[0]) == scheme.preserving
    if scheme.preserving:
        assert_same_program(back, loaded(program))
        assert_same_state(back, loaded(program))
    for a, b in zip(back.module()(*inputs), applied.module()(*inputs), strict=True):
        assert same_bits(a, b)


def test_an_applied_program_trains_and_goes_where_programs_go(model):
    plain = exported(model)
    expected = outputs(copy.deepcopy(plain))
    applied = wnconvert.apply(plain).program
    stacks = {node.name: node.meta["nn_module_stack"] for node in applied.graph.nodes if "nn_module_stack" in node.meta}
    assert next(reversed(stacks["_weight_norm"].values()))[0] == "first"
    unflattened = torch.export.unflatten(copy.deepcopy(applied))
    assert set(unflattened.first.state_dict()) == {*PARTS, "bias"}
    torch.manual_seed(0)
    with torch.no_grad():
        assert_same_outputs([unflattened(torch.randn(4, 3, 31), 3, **OPTIONS)["x"]], expected[:1])
    module = copy.deepcopy(applied).module()
    module(torch.randn(2, 3, 20), 3, **OPTIONS)["x"].sum().backward()
    assert all(module.get_parameter(f"first.{part}").grad.count_nonzero() for part in PARTS)
    assert module.get_parameter("frozen.weight_g").grad is None
    decomposed = copy.deepcopy(applied).run_decompositions()
    for a, e in zip(outputs(decomposed), expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize(
    ("scheme", "what"),
    [("spectral_norm", "keeps a state that training updates"), ("network_norm", "takes all weights together")],
)
def test_a_scheme_that_a_program_cannot_hold_is_refused_with_the_way_out(scheme, what):
    program = torch.export.export(nn.Linear(4, 4), (X,))
    with pytest.raises(wnconvert.OptionError, match=f"{what}.*; apply it to the model, and export that"):
        wnconvert.apply(program, scheme)


def test_what_is_composed_already_is_left_alone():
    program = torch.export.export(nn.Linear(4, 4), (X,))
    applied = wnconvert.apply(program).program
    again, report = wnconvert.apply(applied)
    assert not report.converted
    assert [entry.already for entry in report.skipped] == [True]
    assert_same_program(again, applied)


def test_a_branch_reads_what_is_composed_outside_of_it():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            y = torch.cond(x.sum() > 0, lambda x: self.linear(x), lambda x: x - 1, (x,))
            return self.linear(y)

    program = torch.export.export(Branching(), (X,))
    expected = [program.module()(x) for x in (X + 1, X - 1)]
    applied = wnconvert.apply(program).program
    assert list(applied.state_dict) == ["linear.weight_g", "linear.weight_v", "linear.bias"]
    assert_same_outputs([applied.module()(x) for x in (X + 1, X - 1)], expected)
    assert_same_program(wnconvert.fold(applied).program, program)


def test_only_what_is_chosen_is_normalized_over_the_dim_that_is_said():
    program = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), (X,))
    applied, report = wnconvert.apply(program, dim=1, selection=wnconvert.Selection(exclude=("0.*",)))
    assert [entry.fqn for entry in report.converted] == ["1.weight"]
    assert applied.state_dict["1.weight_g"].shape == (1, 4)
