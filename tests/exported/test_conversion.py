"""A program in gives a program out, which is that of the plain model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import wnconvert
from tests.exported.programs import (
    OPTIONS,
    STAGES,
    assert_same_program,
    assert_same_state,
    exported,
    facts,
    loaded,
    normalized,
    outputs,
)
from tests.graph.snapshot import assert_same_outputs
from wnconvert import Why
from wnconvert.verification import same_bits

each_stage = pytest.mark.parametrize("stage", STAGES)
X = torch.linspace(-1, 1, 12).view(3, 4)


def simple(model: nn.Module, *inputs, **kwargs):
    """Return the program of a model on one input."""
    return torch.export.export(model, inputs or (X,), **kwargs)


def norms(program):
    """Return the nodes that normalize something."""
    names = ("_weight_norm", "linalg_vector_norm", "vdot", "norm", "pow", "sqrt", "div")
    return [node.name for node in program.graph.nodes if node.op == "call_function" and node.name.startswith(names)]


@each_stage
def test_a_folded_program_computes_what_it_did_without_its_norms(stage):
    program = exported(normalized(), stage)
    assert norms(program)
    expected, before = outputs(copy.deepcopy(program)), facts(program)
    folded, report = wnconvert.fold(program)
    assert [entry.fqn for entry in report.converted] == [
        *("first.weight", "hooked.weight", "spectral.weight", "frozen.weight")
    ]
    assert [entry.fqn for entry in report.skipped] == ["linear.weight"]
    assert report.notes == ("run on inputs of 3 sizes, the program gives the same outputs as before, bit for bit",)
    assert not norms(folded)
    assert facts(program) == before
    assert_same_outputs(outputs(folded), expected)
    assert_same_outputs(outputs(program), expected)


@each_stage
def test_it_is_the_program_of_the_plain_model_node_for_node(stage):
    model = normalized()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.remove_weight_norm(model.hooked)
    # a hook leaves its parts behind the bias, and a folded weight stands where they stood
    weight_norm(model.hooked)
    folded = wnconvert.fold(exported(model, stage)).program
    plain = exported(wnconvert.fold(model).model, stage)
    assert_same_program(folded, plain, names="decomposed" not in stage)
    if "decomposed" not in stage:
        assert_same_state(folded, plain)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch's own unflatten does so
def test_it_goes_through_a_file_and_on_to_whatever_programs_go():
    program = exported(normalized(), preserve_module_call_signature=("first", "frozen"))
    expected = outputs(copy.deepcopy(program))
    folded = wnconvert.fold(program).program
    calls = {entry.fqn: entry.signature for entry in folded.module_call_graph}
    assert calls.keys() == {"", *("first", "hooked", "spectral", "norm", "linear", "tied", "frozen")}
    assert calls["first"] is not None
    assert_same_outputs(outputs(loaded(folded)), expected)
    unflattened = torch.export.unflatten(copy.deepcopy(folded))
    assert set(unflattened.state_dict()) == set(folded.state_dict)
    torch.manual_seed(0)
    x = torch.randn(4, 3, 31)
    with torch.no_grad():
        assert_same_outputs([unflattened(x, 3, **OPTIONS)["x"]], expected[:1])
    assert not norms(folded.run_decompositions())
    compiled = torch.compile(copy.deepcopy(folded).module(), backend="eager")
    with torch.no_grad():
        assert_same_outputs([compiled(x, 3, **OPTIONS)["x"]], expected[:1])


def test_dynamic_sizes_stay_dynamic():
    folded = wnconvert.fold(exported(normalized())).program
    assert sorted(str(bounds) for bounds in folded.range_constraints.values()) == ["VR[0, int_oo]", "VR[12, int_oo]"]
    assert [outputs(folded, batch, length)[0].shape[0] for batch, length in ((1, 12), (7, 50))] == [1, 7]
    with pytest.raises(AssertionError, match=r"length|shape|size"):
        outputs(folded, length=11)


def test_a_frozen_weight_stays_frozen_and_a_tied_one_tied():
    folded = wnconvert.fold(exported(normalized())).program
    frozen = {key for key, value in folded.state_dict.items() if not value.requires_grad and "norm." not in key}
    assert frozen == {"frozen.weight", "frozen.bias"}
    assert folded.state_dict["tied.weight"] is folded.state_dict["linear.weight"]


@pytest.mark.parametrize("stage", ["exported", "loaded"])
def test_a_normalized_weight_of_two_modules_stays_tied(stage):
    model = nn.Sequential(weight_norm(nn.Linear(4, 4)), weight_norm(nn.Linear(4, 4)))
    for part in ("original0", "original1"):
        setattr(model[1].parametrizations.weight, part, getattr(model[0].parametrizations.weight, part))
    program = simple(model)
    if stage == "loaded":
        program = loaded(program)
    folded = wnconvert.fold(program).program
    assert list(folded.state_dict) == ["0.weight", "0.bias", "1.weight", "1.bias"] or stage == "loaded"
    assert folded.state_dict["0.weight"] is folded.state_dict["1.weight"]


def test_only_what_is_chosen_is_folded():
    model = nn.Sequential(weight_norm(nn.Linear(4, 4)), weight_norm(nn.Linear(4, 4)))
    folded, report = wnconvert.fold(simple(model), selection=wnconvert.Selection(include=("0.weight",)))
    assert [entry.fqn for entry in report.converted] == ["0.weight"]
    assert {entry.fqn: entry.reason.why for entry in report.skipped} == {"1.weight": Why.NOT_CHOSEN}
    assert list(folded.state_dict)[2:] == ["1.bias", *(f"1.parametrizations.weight.original{n}" for n in range(2))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_keep_their_bits(dtype):
    program = simple(weight_norm(nn.Linear(4, 4)).to(dtype), X.to(dtype))
    expected = program.module()(X.to(dtype))
    folded = wnconvert.fold(program).program
    assert folded.state_dict["weight"].dtype == dtype
    assert same_bits(folded.module()(X.to(dtype)), expected)


def test_the_tensors_that_stay_are_copies_unless_they_may_be_shared():
    program = simple(weight_norm(nn.Linear(4, 4)))
    bias = program.state_dict["bias"]
    assert wnconvert.fold(program).program.state_dict["bias"] is not bias
    assert wnconvert.fold(program, inplace=True).program.state_dict["bias"] is bias
    assert "parametrizations.weight.original0" in program.state_dict


def test_a_program_without_norms_is_left_as_it_is():
    program = simple(nn.Linear(4, 4))
    folded, report = wnconvert.fold(program)
    assert [entry.reason.why for entry in report.skipped] == [Why.ALREADY_PLAIN]
    assert_same_program(folded, program)
    with pytest.raises(wnconvert.NothingToConvertError, match="no weighted op"):
        wnconvert.fold(simple(nn.ReLU()))


class Standardized(nn.Linear):
    """A weight that is computed from one of its own name, and a constant of the graph."""

    def forward(self, x):
        shift = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return F.linear(x, F.normalize(self.weight) + shift, self.bias)


def test_what_is_computed_from_a_weight_takes_its_name():
    model = Standardized(4, 4)
    program = simple(model)
    expected = program.module()(X)
    folded = wnconvert.fold(program).program
    assert list(folded.state_dict) == ["weight", "bias"]
    assert not folded.constants
    assert same_bits(folded.module()(X), expected)
    with torch.no_grad():
        assert same_bits(F.linear(X, folded.state_dict["weight"], folded.state_dict["bias"]), model(X))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = weight_norm(nn.Linear(4, 4)), weight_norm(nn.Linear(4, 4))
        self.plain = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.cond(x.sum() > 0, lambda x: self.inner(x), lambda x: self.plain(x), (x,))
        return self.outer(y)


def test_what_is_read_inside_of_a_branch_is_skipped_with_the_reason():
    program = simple(Branching())
    expected = [program.module()(x) for x in (X + 1, X - 1)]
    folded, report = wnconvert.fold(program)
    assert [entry.fqn for entry in report.converted] == ["outer.weight"]
    assert {entry.fqn: entry.reason.why for entry in report.skipped} == {
        "inner.weight": Why.OPAQUE,
        "plain.weight": Why.OPAQUE,
    }
    for x, y in zip((X + 1, X - 1), expected, strict=True):
        assert same_bits(folded.module()(x), y)
    assert loaded(folded).module()(X).isfinite().all()


class Updating(nn.Module):
    """A weight that is computed from a buffer which each call changes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        self.scale.mul_(2)
        return F.linear(x, self.weight * self.scale)


@pytest.mark.parametrize("decomposed", [False, True])
def test_what_is_computed_from_a_buffer_that_changes_is_skipped(decomposed):
    program = simple(Updating())
    program = program.run_decompositions() if decomposed else program
    with pytest.raises(wnconvert.NothingToConvertError, match=r"changes ('scale'|it) in place"):
        wnconvert.fold(program)


def test_a_weight_that_is_also_an_output_is_the_folded_one():
    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = weight_norm(nn.Linear(4, 4))

        def forward(self, x):
            with parametrize.cached():
                return self.linear(x), self.linear.weight

    program = simple(Returning())
    expected = program.module()(X)
    folded = wnconvert.fold(program).program
    assert list(folded.state_dict) == ["linear.weight", "linear.bias"]
    assert_same_outputs(list(folded.module()(X)), list(expected))


@pytest.mark.parametrize("strict", [False, True])
def test_both_ways_to_export_are_folded(strict):
    model = nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.ReLU()).eval()
    folded = wnconvert.fold(simple(model, strict=strict)).program
    assert list(folded.state_dict) == ["0.weight", "0.bias"]
    assert same_bits(folded.module()(X), model(X))


def test_the_plain_weights_of_a_program_are_found():
    found = wnconvert.find_weighted_ops(exported(normalized()))
    assert [(weight.fqn, weight.ops, weight.aliases) for weight in found] == [
        ("linear.weight", ("linear",), ("tied.weight",))
    ]


@pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights:UserWarning")  # torch's own, of its LSTM
def test_what_computes_a_weight_for_nothing_goes_with_it():
    """An LSTM reads its weights several times in a forward; torch.export writes each down."""
    model = weight_norm(weight_norm(nn.LSTM(4, 5, batch_first=True), "weight_ih_l0"), "weight_hh_l0").eval()
    program = simple(model, torch.linspace(-1, 1, 24).view(2, 3, 4))
    assert len(norms(program)) > 2
    folded, report = wnconvert.fold(program)
    assert [entry.fqn for entry in report.converted] == ["weight_ih_l0", "weight_hh_l0"]
    assert list(folded.state_dict) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert not norms(folded)
