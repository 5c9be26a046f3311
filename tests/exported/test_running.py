"""Inputs for a program, and what a run of it gives and leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

import wnconvert
from tests.exported.programs import exported, loaded, normalized
from wnconvert.exported.running import Runner, user_inputs


def shapes(inputs):
    return [tuple(each.shape) if isinstance(each, torch.Tensor) else each for each in inputs]


def test_the_inputs_have_the_sizes_of_the_example_the_least_and_others():
    program = exported(normalized())
    found = [shapes(inputs) for inputs in user_inputs(program)]
    assert found == [[(2, 3, 20), 3, (6,)], [(2, 3, 12), 3, (6,)], [(5, 3, 23), 3, (6,)]]


def test_upper_bounds_hold_and_sizes_that_depend_on_others_follow():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y[::2]

    size = Dim("size", min=3, max=6)
    program = torch.export.export(
        Two(), (torch.ones(5), torch.ones(10)), dynamic_shapes={"x": {0: size}, "y": {0: 2 * size}}
    )
    assert [shapes(inputs) for inputs in user_inputs(program)] == [[(5,), (10,)], [(3,), (6,)], [(6,), (12,)]]


def test_without_an_example_numbers_can_be_indices():
    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, ids, mask):
            return self.table(ids) * mask.unsqueeze(-1)

    batch = Dim("batch", max=100)
    program = torch.export.export(
        Look(),
        (torch.tensor([2, 0]), torch.tensor([True, False])),
        dynamic_shapes={"ids": {0: batch}, "mask": {0: batch}},
    )
    example, *others = user_inputs(program)
    assert shapes(example) == [(2,), (2,)]
    assert all(set(inputs[0].tolist()) <= {2, 0} for inputs in others)
    program._example_inputs = None
    for ids, mask in user_inputs(program):
        assert ids.dtype == torch.int64
        assert mask.dtype == torch.bool
        assert Runner(program).run([ids, mask])[0].shape == (len(ids), 2)


def test_given_inputs_come_first_and_must_be_as_many():
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    assert torch.equal(next(user_inputs(program, (torch.zeros(1, 3),)))[0], torch.zeros(1, 3))
    with pytest.raises(wnconvert.OptionError, match="the program takes 1 inputs, and example_inputs are others"):
        next(user_inputs(program, (1, 2)))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def forward(self, x):
        self.count.add_(1)
        self.cache.copy_(x)
        x.mul_(2)
        return nn.functional.dropout(x * self.weight, training=True) + self.count


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_run_changes_nothing_and_is_the_same_again(decomposed):
    program = torch.export.export(Counting(), (torch.ones(3),))
    program = program.run_decompositions() if decomposed else program
    runner, x, state = Runner(program), torch.full((3,), 5.0), torch.get_rng_state()
    first, again = runner.run([x]), runner.run([x])
    assert len(first) == 4  # the output, and what is updated: count, cache and the input
    assert sorted(map(float, (value.max() for value in first[:: -1 if decomposed else 1]))) == pytest.approx(
        sorted((1.0, 5.0, 10.0, float(max(first[-1 if decomposed else 0].max(), 1.0))))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert (program.state_dict["count"].item(), float(x[0])) == (0.0, 5.0)
    assert not program.constants["cache"].any()


def test_a_program_from_a_file_has_the_sizes_of_its_example():
    assert [shapes(inputs)[0] for inputs in user_inputs(loaded(exported(normalized())))] == [
        *((2, 3, 20), (2, 3, 12), (5, 3, 23))
    ]
