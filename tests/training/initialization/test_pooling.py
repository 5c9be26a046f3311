"""Statistics over several batches and several reads of one weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.settling import Branching, X, Y, assert_settled, gives, ours
from wnconvert.training.initialization.initializing import initialize


def test_several_batches_are_as_one():
    """The statistics are those of all positions, whatever batch they are in."""
    one, several = ours(Branching()), ours(Branching())
    initialize(one, [torch.cat([X, Y])])
    initialize(several, (batch for batch in (X, Y)))
    assert_settled(several, X, Y)
    for (name, a), b in zip(one.state_dict().items(), several.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_cost_does_not_depend_on_the_depth():
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            return super().forward(x)

    for depth in (1, 12):
        Counting.calls = 0
        model = ours(Counting(*(nn.Linear(20, 20) for _ in range(depth))))
        Counting.calls = 0
        initialize(model, [X.flatten(0, 1), Y.flatten(0, 1), Y.flatten(0, 1)])
        assert Counting.calls == 3 * 3


class Tied(nn.Module):
    def __init__(self, serial: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.other.weight = self.one.weight
        self.serial = serial

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).tanh()
        return self.last(self.other(y if self.serial else x.flip(-1)).tanh() + y)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("serial", [False, True])
def test_tied_weights_are_pooled(serial, parts):
    """Each bias gives its layer mean 0; the one magnitude gives both layers together variance 1."""
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(3)) * 2 + 1
    model = ours(Tied(serial))
    report = initialize(model, x.chunk(parts))
    assert all(entry.reached for entry in report.initialized)
    assert report.initialized[0].biases == ("one.bias", "other.bias")
    assert report.initialized[0].calls == 2 * parts
    y = gives(model, x)
    assert all(each.mean(1).abs().max() < 1e-5 for each in y.values())
    variance = (y["one"].var(1, unbiased=False) + y["other"].var(1, unbiased=False)) / 2
    assert (variance - 1).abs().max() < 1e-4
    assert (y["last"].var(1, unbiased=False) - 1).abs().max() < 1e-4


def test_a_cell_that_is_called_in_a_loop_is_settled_over_all_steps():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.read, self.step = nn.Linear(3, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 5)
            for t in range(x.shape[-1]):
                h = torch.tanh(self.read(x[..., t]) + self.step(h))
            return h

    model = ours(Recurrent())
    report = initialize(model, [X])
    assert [entry.fqn for entry in report.initialized] == ["read.weight", "step.weight"]
    assert all(entry.reached for entry in report.initialized), str(report)


class Orders(nn.Module):
    """Batches go through it in another order each, or not everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.rare, self.never = (nn.Linear(20, 20) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.one, self.other) if x.mean() > 0 else (self.other, self.one)
        x = second(first(x).relu()).relu()
        return self.rare(x) if len(x) > 10 else x


def test_batches_that_take_other_ways_are_settled_too():
    model = ours(Orders())
    report = initialize(model, [X, Y])
    assert [entry.fqn for entry in report.initialized] == ["one.weight", "other.weight", "rare.weight"]
    assert all(entry.reached for entry in report.initialized), str(report)
    (skipped,) = report.skipped
    assert (skipped.fqn, str(skipped.reason)) == ("never.weight", "nothing read it on these batches")


def test_a_bias_that_two_weights_share_is_left_alone():
    plain = nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 4))
    plain[1].bias = plain[0].bias
    report = initialize(ours(plain), [X])
    assert [entry.biases for entry in report.initialized] == [(), ()]


@pytest.mark.parametrize("parts", [1, 4])
def test_a_deep_stack_goes_on_with_the_bits_that_its_layers_give(parts):
    """What a layer nearly gives is something else forty layers on."""
    torch.manual_seed(0)
    model = ours(nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(40))))
    report = initialize(model, torch.randn(256, 64).chunk(parts))
    assert max(entry.off_mean for entry in report.initialized) < 2e-6
    assert max(entry.off_variance for entry in report.initialized) < 1e-5


def test_a_part_that_two_weights_have_is_left_alone():
    model = ours(nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 20), nn.Linear(20, 3)))
    model[2].weight_g = model[0].weight_g
    before = model[0].weight_g.detach().clone()
    told = initialize(model, [X])
    assert [entry.fqn for entry in told.initialized] == ["3.weight"]
    assert [str(entry.reason)[:14] for entry in told.skipped] == ["another weight"] * 2
    assert torch.equal(model[0].weight_g, before)
