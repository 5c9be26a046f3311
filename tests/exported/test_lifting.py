"""A graph that holds its tensors, as a program again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.exported.programs import STAGES, assert_same_program, assert_same_state, exported, normalized
from wnconvert.exported.holding import hold
from wnconvert.exported.lifting import lift


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_held_and_is_lifted_is_the_program(stage):
    program = exported(normalized(), stage, preserve_module_call_signature=("first", "tied"))
    lifted = lift(hold(program), program)
    assert_same_program(lifted, program)
    assert_same_state(lifted, program)
    assert lifted.example_inputs is program.example_inputs


class Input(nn.Module):
    """Its input is called as a function of Python, a name that torch.fx does not give out."""

    def __init__(self):
        super().__init__()
        self.input, self.register = nn.Linear(3, 3), nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, input, type=None):
        return torch.cond(input.sum() > 0, lambda x: self.input(x), lambda x: x - 1, (input,)) * self.register


@pytest.mark.parametrize("decomposed", [False, True])
def test_names_of_python_and_graphs_that_are_called_stay(decomposed):
    program = torch.export.export(Input(), (torch.ones(3),))
    program = program.run_decompositions() if decomposed else program
    lifted = lift(hold(program), program)
    assert_same_program(lifted, program)
    assert torch.equal(lifted.module()(torch.ones(3)), program.module()(torch.ones(3)))


def test_a_node_that_is_another_tensor_now_becomes_its_input():
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    held = hold(program)
    held.module.register_parameter("other", nn.Parameter(torch.full((2, 3), 2.0)))
    fetch = next(node for node in held.module.graph.nodes if node.target == "weight")
    fetch.target = "other"
    del held.module.weight
    lifted = lift(held, program)
    assert [spec.arg.name for spec in lifted.graph_signature.input_specs] == ["p_bias", "p_other", "input"]
    assert list(lifted.state_dict) == ["bias", "other"]
    assert torch.equal(lifted.module()(torch.ones(1, 3)), 6 + lifted.state_dict["bias"].unsqueeze(0))
