"""Data-dependent initialization, against the formulas of the paper."""

from __future__ import annotations

import random
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnconvert
from tests.training.settling import (
    Branching,
    X,
    Y,
    assert_settled,
    by_hooks,
    by_parametrizations,
    gives,
    in_two_dims,
    ours,
    sequential,
)
from wnconvert.errors import CopyError, KindError, NothingToConvertError, OptionError
from wnconvert.training.composed import composed_weights
from wnconvert.training.initialization.initializing import initialize


def unit(v: Tensor, dim: int) -> Tensor:
    return v / v.double().square().sum([each for each in range(v.dim()) if each != dim], keepdim=True).sqrt()


def expected(plain: Branching, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return g and b of each layer by section 3 of the paper, in float64."""

    def settled(name: str, t: Tensor) -> Tensor:
        dims = [dim for dim in range(t.dim()) if dim != 1]
        std, mean = t.std(dims, unbiased=False, keepdim=True), t.mean(dims, keepdim=True)
        found[name] = (1 / std).flatten(), (-mean / std).flatten()
        return (t - mean) / std

    found: dict[str, tuple[Tensor, Tensor]] = {}
    x = x.double()
    v = {name: tensor.detach().double() for name, tensor in plain.named_parameters()}
    x = settled("conv", F.conv1d(x, unit(v["conv.weight"], 0), padding=1)).tanh()
    x = settled("depthwise", F.conv1d(x, unit(v["depthwise.weight"], 0), groups=8)).relu()
    x = settled("up", F.conv_transpose1d(x, unit(v["up.weight"], 1), stride=2)).sigmoid()
    settled("head", x.mean(-1) @ unit(v["head.weight"], 0).t())
    return found


@pytest.mark.parametrize("make", [ours, by_parametrizations, by_hooks], ids=["ours", "new", "hooks"])
def test_magnitudes_and_biases_are_those_of_the_paper(make):
    model = make(Branching())
    weights = composed_weights(model)
    directions = [weight.direction.clone() for weight in weights]
    report = initialize(model, [X])
    assert_settled(model, X)
    assert [entry.fqn for entry in report.initialized] == [
        f"{name}.weight" for name in ("conv", "depthwise", "up", "head")
    ]
    assert not report.skipped
    assert all(torch.equal(one.direction, other) for one, other in zip(weights, directions, strict=True))
    wanted = expected(Branching(), X)
    for weight in composed_weights(model):
        name = weight.fqn.partition(".")[0]
        torch.testing.assert_close(weight.parts["g"].double().flatten(), wanted[name][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.get_parameter(f"{name}.bias").double(), wanted[name][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["module", "graph"])
@pytest.mark.parametrize("make", [sequential, in_two_dims])
def test_modules_and_graphs_are_settled(make, how):
    model = ours(make(), how=how)
    report = initialize(model, [X])
    assert len(report.initialized) == (4 if make is sequential else 2)
    assert all(entry.reached and entry.off_mean < 1e-5 and entry.off_variance < 1e-4 for entry in report.initialized)
    folded = wnconvert.fold(model).model  # whose layers are modules again
    assert_settled(folded, X)


def test_without_a_bias_the_variance_is_set_and_the_mean_stays():
    model = ours(nn.Sequential(nn.Conv1d(3, 4, 3, bias=False)))
    report = initialize(model, [X])
    y = gives(model, X)["0"]
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(4).double(), rtol=0, atol=1e-4)
    assert y.mean(1).abs().max() > 0.01
    assert "no bias, so the mean stays" in str(report)


class Stateful(nn.Module):
    """A forward that draws random numbers, updates buffers, and keeps things in its module between two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(20, 8), nn.BatchNorm1d(3), nn.Linear(8, 8)
        self.third = parametrizations.spectral_norm(nn.Linear(8, 4))
        self.last = nn.Linear(4, 2)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.norm(self.first(x))
        self.seen.append(len(x))
        y = F.dropout(self.second(F.dropout(self.kept, 0.5, self.training) * (1 + random.random())), 0.5, self.training)
        return self.last(self.third(y + self.kept))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batches", [[X], [X, Y]], ids=["one", "two"])
def test_modes_buffers_generators_and_attributes_are_left_as_they_are(batches, training):
    model = ours(Stateful(), selection=wnconvert.Selection(exclude=("third*",))).train(training)
    model.norm.train(False)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    given = [batch.clone() for batch in batches]
    state, own = torch.get_rng_state(), random.getstate()
    report = initialize(model, batches)
    assert all(entry.reached for entry in report.initialized), str(report)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == own
    assert (model.training, model.norm.training) == (training, False)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(torch.equal(one, other) for one, other in zip(batches, given, strict=True))
    assert model.seen == []
    assert not hasattr(model, "kept")
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_a_hook_of_the_user_runs_on_a_copy_and_stays():
    model, seen = ours(sequential()), []
    model[0].register_forward_hook(lambda module, args, y: seen.append(module) or y * 2)
    initialize(model, [X])
    assert len(model[0]._forward_hooks) == 1
    assert model[0] not in seen


@pytest.mark.parametrize("batches", [[X], [X, Y]], ids=["one", "two"])
def test_autocast_holds_for_all_batches(batches):
    model = ours(Branching())
    with torch.autocast("cpu", torch.bfloat16):
        report = initialize(model, batches)
        assert model(X).dtype == torch.bfloat16
    assert all(entry.reached and entry.off_variance < 0.02 for entry in report.initialized), str(report)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_settled_as_well_as_they_can(dtype):
    report = initialize(ours(Branching().to(dtype)), [X.to(dtype)])
    assert all(entry.reached for entry in report.initialized), str(report)
    assert max(entry.off_variance for entry in report.initialized) < (1e-12 if dtype == torch.float64 else 0.03)


def test_gradients_and_optimizers_go_on():
    model = ours(sequential())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    initialize(model, [X])
    before = model[0].weight_g.detach().clone()
    model(X).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight_g, before)


class Failing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if len(x) == 7:
            raise ValueError("seven")
        return y


@pytest.mark.parametrize(
    ("make", "batches", "error", "text"),
    [
        (sequential, [], OptionError, "batches is empty; an iterator that was used up gives no more"),
        (sequential, iter(()), OptionError, "batches is empty"),
        (sequential, X, OptionError, r"batches is one Tensor; it must be several, such as \[batch\]"),
        (sequential, 3, OptionError, "batches is one int"),
        (sequential, [X, Y * float("nan")], OptionError, "batch 1 gives values that are not finite at weight '0.weigh"),
        (sequential, [X[:1]], OptionError, r"weight '8.weight' sees 1 position\(s\) in all batches together"),
        (sequential, [X[:0]], OptionError, r"weight '0.weight' sees 0 position\(s\)"),
        (sequential, [X, X[:, :2]], OptionError, "the model does not run on batch 1: RuntimeError: "),
        (sequential, [(X, X)], OptionError, "the model does not run on batch 0: TypeError: "),
        (lambda: Failing(*sequential()), [X, Y, X], OptionError, "not run on batch 1: ValueError: seven"),
    ],
)
def test_bad_batches_are_named_and_the_model_stays(make, batches, error, text):
    model = ours(make())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, threads = torch.get_rng_state(), threading.active_count()
    with pytest.raises(error, match=text) as caught:
        initialize(model, batches)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert threading.active_count() == threads


def test_what_fails_once_layers_are_set_leaves_the_model_too():
    class Late(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = self[0](x)
            if y.std() > 0.9:
                raise ValueError("late")
            return self[1](y)

    model = ours(Late(nn.Linear(20, 4), nn.Linear(4, 4)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    threads = threading.active_count()
    small = X / 100
    for batches in ([small], [small, small[:9]]):
        with pytest.raises(OptionError, match="the model does not run on batch 0: ValueError: late"):
            initialize(model, batches)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert threading.active_count() == threads


def test_models_that_have_nothing_to_initialize_are_named():
    with pytest.raises(NothingToConvertError, match="'Sequential' has no composed weight to initialize"):
        initialize(sequential(), [X])
    with pytest.raises(KindError, match="a dict is no module"):
        initialize({}, [X])
    with pytest.raises(KindError, match="'DataParallel' is wrapped or sharded"):
        initialize(nn.DataParallel(ours(sequential())), [X])
    with pytest.raises(OptionError, match=r"weight '0.weight' has no data"):
        initialize(ours(sequential()).to("meta"), [X])


def test_a_model_that_cannot_be_copied_is_named_without_a_way_that_is_none():
    model = ours(sequential())
    model.lock = threading.Lock()
    with pytest.raises(CopyError, match=r"'Sequential' cannot be copied: .*; a copy is what runs, so initialize it"):
        initialize(model, [X])


def test_an_initialization_of_a_composed_weight_is_lost_unless_it_is_assigned():
    """What docs/training.md says."""
    model = ours(sequential())
    before = model[0].weight.detach().clone()
    nn.init.constant_(model[0].weight, 2.0)
    assert torch.equal(model[0].weight, before)
    model[0].weight = nn.init.constant_(torch.empty_like(before), 2.0)
    assert torch.equal(model[0].weight, torch.full_like(before, 2.0))
