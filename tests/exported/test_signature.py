"""The order of what is new among what was there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from tests.exported.programs import exported, normalized
from wnconvert.exported.holding import hold
from wnconvert.exported.signature import input_specs, merged, state_and_constants


@pytest.mark.parametrize(
    ("order", "own", "new", "expected"),
    [
        ("abc", "abc", "abc", "abc"),
        ("abc", "abc", "aXbc", "aXbc"),
        ("abc", "abc", "abcX", "abcX"),
        ("abc", "abc", "Xc", "abXc"),
        ("aubvc", "abc", "aXc", "aubvXc"),  # u and v are of another kind
        ("auv", "a", "aX", "aXuv"),
        ("uv", "", "X", "Xuv"),
        ("ab", "ab", "XY", "abXY"),
        ("abc", "abc", "cba", "abc"),  # an order of its own is left alone
    ],
)
def test_what_is_new_stands_before_what_follows_it_in_its_module(order, own, new, expected):
    assert "".join(merged(list(order), set(own), list(new))) == expected


def test_nothing_changed_gives_the_signature_and_the_tensors_in_their_order():
    program = exported(normalized())
    module = hold(program).module
    assert input_specs(module, program) == program.graph_signature.input_specs
    state, constants = state_and_constants(module, program)
    assert (list(state), list(constants)) == (list(program.state_dict), list(program.constants))


def test_new_tensors_have_the_kind_and_the_place_of_what_they_are():
    program = exported(normalized())
    module = hold(program, share=True).module
    linear = module.get_submodule("tied")
    linear.register_parameter("gain", nn.Parameter(torch.ones(1)))
    linear.register_buffer("count", torch.ones(1))
    linear.register_buffer("cache", torch.ones(1), persistent=False)
    del linear.bias
    specs = input_specs(module, program)
    targets = [spec.target for spec in specs]
    assert "tied.bias" not in targets
    assert targets.index("tied.gain") == targets.index("tied.weight") + 1
    kinds = {spec.target: (spec.kind, spec.persistent) for spec in specs}
    assert kinds["tied.gain"] == (InputKind.PARAMETER, None)
    assert kinds["tied.count"] == (InputKind.BUFFER, True)
    assert kinds["tied.cache"] == (InputKind.BUFFER, False)
    assert [spec.kind for spec in specs[-3:]] == [InputKind.USER_INPUT] * 3
    state, constants = state_and_constants(module, program)
    assert "tied.bias" not in state
    assert list(state).index("tied.gain") == list(state).index("tied.weight") + 1
    assert "tied.count" in state
    assert set(constants) == {"calls", "constant", "tied.cache"}
