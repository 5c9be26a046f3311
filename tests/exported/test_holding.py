"""A program as a graph module that holds its tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.exported.programs import INPUTS, OPTIONS, exported, facts, loaded, normalized
from wnconvert import KindError
from wnconvert.exported.holding import hold
from wnconvert.verification import same_bits


def test_it_holds_all_tensors_under_their_names_and_runs_as_the_program_does():
    program = exported(normalized())
    before = facts(program)
    held = hold(program)
    tensors = dict(held.module.named_parameters(remove_duplicate=False))
    tensors |= dict(held.module.named_buffers(remove_duplicate=False))
    assert set(tensors) == {*program.state_dict, *program.constants}
    assert set(held.module.state_dict()) == set(program.state_dict)
    assert [node.name for node in held.module.graph.nodes if node.op == "placeholder"] == [
        "x",
        "scale",
        "options_shift",
    ]
    with torch.no_grad():
        expected = program.module()(*INPUTS, **OPTIONS)["x"]
        actual = torch.fx.Interpreter(held.module).run(*INPUTS, OPTIONS["options"]["shift"])[0]
    assert same_bits(actual, expected)
    assert facts(program) == before


def test_tied_tensors_are_one_also_where_a_file_made_two_of_them():
    module = hold(loaded(exported(normalized()))).module
    assert module.get_parameter("tied.weight") is module.get_parameter("linear.weight")


def test_tensors_are_shared_or_copied():
    program = exported(normalized())
    bias = program.state_dict["tied.bias"]
    assert hold(program, share=True).module.get_parameter("tied.bias") is bias
    assert hold(program).module.get_parameter("tied.bias").data_ptr() != bias.data_ptr()


def test_what_a_program_gives_back_is_written_in_place():
    held = hold(exported(normalized(), "decomposed"))
    assert [write.args[0].target for write in held.writes] == ["calls"]


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.true_graph_0 = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,)) + self.true_graph_0


def test_a_tensor_that_is_called_as_a_graph_is_refused():
    program = torch.export.export(Branch(), (torch.ones(3),))
    with pytest.raises(KindError, match="a tensor 'true_graph_0', which is also the name of something else"):
        hold(program)
