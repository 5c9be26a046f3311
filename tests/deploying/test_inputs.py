from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.deploying.nets import Net
from wnconvert.deploying.inputs import DynamicDim, InputSpec, example_of, names_of, read_input
from wnconvert.errors import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=1,80,T", InputSpec("x", (1, 80, DynamicDim("T")))),
        ("x=1, 80, T(8..)", InputSpec("x", (1, 80, DynamicDim("T", 8)))),
        ("x=B(..4),T(8..64)", InputSpec("x", (DynamicDim("B", None, 4), DynamicDim("T", 8, 64)))),
        ("ids=2,T:int64", InputSpec("ids", (2, DynamicDim("T")), torch.int64)),
        ("scalar=", InputSpec("scalar", ())),
    ],
)
def test_an_input_is_read(text, expected):
    assert read_input(text) == expected


@pytest.mark.parametrize("text", ["x", "=1", "x=1,,2", "x=1,-2", "x=T(4..2)", "x=1:floaty", "x=1:nn", "x=T(a..b)"])
def test_what_is_no_input_is_refused(text):
    with pytest.raises(OptionError, match=r"^input"):
        read_input(text)


def test_inputs_are_as_small_as_the_model_takes_them():
    model = nn.Sequential(nn.Conv1d(2, 2, 90), nn.Conv1d(2, 2, 3))
    example = example_of([read_input("input=1,2,T")], model)
    assert example.args[0].shape == (1, 2, 100)
    assert example_of([read_input("input=1,2,T(120..)")], model).args[0].shape == (1, 2, 120)


def test_dims_of_one_name_have_one_size_and_others_another():
    class Two(nn.Module):
        def forward(self, a, *, b):
            assert a.shape[1] == b.shape[0]
            return a + b[None, :, None]

    example = example_of([read_input("b=T"), read_input("a=B,T,S")], Two())
    assert len(set(example.args[0].shape)) == 3
    assert list(example.dynamic_shapes) == ["a", "b"]  # in the order of the forward, as torch.export wants it
    assert names_of(example.dynamic_shapes, ()) == {"a": {0: "B", 1: "T", 2: "S"}, "b": {0: "T"}}


def test_dims_in_the_place_of_their_input_have_names_too():
    assert names_of(({0: "B"}, (None, "T")), ["x", "y"]) == {"x": {0: "B"}, "y": {1: "T"}}
    assert names_of(({0: "B"},), ["x", "y"]) == {}  # of one that is no tensor, but holds some


def test_numbers_of_tokens_are_indices():
    example = example_of([read_input("input=2,T:int64")], nn.Embedding(2, 3))
    assert example.args[0].dtype == torch.int64


def test_inputs_that_contradict_each_other_are_refused():
    with pytest.raises(OptionError, match="input 'x' is given twice"):
        example_of([read_input("x=1,4,T"), read_input("x=1,4,9")], Net())
    with pytest.raises(OptionError, match="dims 'T' of at least 12 and at most 9"):
        example_of([read_input("x=1,4,T(..9)"), read_input("y=1,4,T(12..)")], Net())


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="do not fit forward"):
        example_of([read_input("y=1,4,T")], Net())
    with pytest.raises(OptionError, match="does not run on inputs of these shapes"):
        example_of([read_input("x=1,3,T")], Net())
