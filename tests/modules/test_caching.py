"""Weights that are composed once for several forwards and backwards."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import wnconvert
from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.schemes.weight_norm import WeightNorm

SCHEMES = ["weight_norm", "weight_standardization", "spectral_norm", "sigma_reparam", "network_norm"]


class Twice(nn.Module):
    """A layer that is called twice in each forward, and a recurrent one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.rnn = nn.LSTM(4, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.first(self.first(x).tanh()))[0])


def applied(scheme: Any = "weight_norm", **how: str) -> nn.Module:
    torch.manual_seed(0)
    return wnconvert.apply(Twice(), scheme, **how).model.train()


def batches(count: int = 3) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, 5, 4, generator=generator) for _ in range(count))


def gradients(model: nn.Module, context: Any, forward: Any = None) -> dict[str, torch.Tensor]:
    with context:
        for x in batches():
            (forward or model)(x).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that are composed, in order."""
    shapes: list[tuple[int, ...]] = []
    compose = WeightNorm.compose

    def watched(self: WeightNorm, parts: Any, spec: Any) -> torch.Tensor:
        shapes.append(spec.shape)
        return compose(self, parts, spec)

    monkeypatch.setattr(WeightNorm, "compose", watched)
    return shapes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_are_those_of_all_backwards(scheme):
    if scheme in ("spectral_norm", "sigma_reparam"):  # whose state would take a step in each forward
        scheme = wnconvert.SCHEMES.get(scheme)(power_iterations=0)
    torch.testing.assert_close(
        gradients(model := applied(scheme), wnconvert.cached(model)), gradients(applied(scheme), nullcontext())
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_values_have_the_bits_that_they_have_without(scheme):
    (x,) = batches(1)
    model = applied(scheme).eval()
    expected = model(x)
    with wnconvert.cached(model):
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x), expected)
    with torch.no_grad():
        expected = model(x)
        with wnconvert.cached(model):
            assert torch.equal(model(x), expected)


def test_each_weight_is_composed_once(composed):
    model = applied()
    composed.clear()
    gradients(model, wnconvert.cached(model))
    assert sorted(composed) == [(2, 3), (4, 4), (12, 3), (12, 4)]
    composed.clear()
    gradients(model, nullcontext())
    assert len(composed) == 3 * 5


def test_state_takes_one_step_for_all():
    once, cached = applied("spectral_norm"), applied("spectral_norm")
    (x,) = batches(1)
    once.head(once.rnn(once.first(x))[0])
    with wnconvert.cached(cached):
        for x in batches():
            cached(x)
    for name, buffer in once.named_buffers():
        assert torch.equal(cached.get_buffer(name), buffer)


def test_parts_have_no_gradients_before_it_is_left():
    model = applied()
    with wnconvert.cached(model):
        model(next(batches())).sum().backward()
        assert model.first.weight_v.grad is None
        assert model.first.bias.grad is not None
    assert model.first.weight_v.grad is not None


def _fail(model: nn.Module) -> None:
    with wnconvert.cached(model):
        model(next(batches())).sum().backward()
        raise ZeroDivisionError


def _step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(next(batches())).sum().backward()
    with wnconvert.cached(model):
        model(next(batches()))
        optimizer.step()
        model(next(batches()))


def test_it_is_left_after_an_error_too():
    model = applied()
    with pytest.raises(ZeroDivisionError):
        _fail(model)
    assert model.first.weight_v.grad is not None
    assert model.first.weight.grad_fn is not None


def test_inside_of_another_it_is_one(composed):
    model = applied()
    composed.clear()
    with wnconvert.cached(model):
        gradients(model, wnconvert.cached(model))
        assert model.first.weight_v.grad is None
    assert len(composed) == 4


def test_a_step_inside_is_named():
    with pytest.raises(OptionError, match=r"'weight' is composed of what has changed inside of wnconvert\.cached"):
        _step(applied())


def test_under_no_grad_first_and_with_gradients_then(composed):
    model = applied()
    with wnconvert.cached(model):
        with torch.no_grad():
            model(next(batches()))
        model(next(batches())).sum().backward()
    assert model.first.weight_v.grad is not None


def test_under_autocast():
    model = applied()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model.first, wnconvert.cached(model), lambda x: model.first(x).float())
        expected = gradients((other := applied()).first, nullcontext(), lambda x: other.first(x).float())
    # sums of gradients in bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)


def test_with_activation_checkpointing():
    model, other = applied(), applied()
    found = gradients(model, wnconvert.cached(model), lambda x: checkpoint(model, x, use_reentrant=False))
    torch.testing.assert_close(found, gradients(other, nullcontext()))


def test_what_is_copied_inside_is_not_inside():
    model = applied()
    with wnconvert.cached(model):
        model(next(batches()))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.first.weight.grad_fn is not None
            assert other.first.weight is not other.first.weight


def test_frozen_parts_stay_without_gradients():
    model = applied()
    model.first.requires_grad_(False)
    gradients(model, wnconvert.cached(model))
    assert model.first.weight_v.grad is None
    assert model.head.weight_v.grad is not None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _graph(), KindError, "is a graph, which composes in its own forward"),
        (lambda: nn.DataParallel(applied()), KindError, "'DataParallel' is distributed: every backward must reach"),
        (lambda: None, KindError, "a NoneType is no module"),
        (Twice, NothingToConvertError, "'Twice' has no composed weight; wnconvert.apply makes some"),
    ],
    ids=["graph", "replicas", "nothing", "plain"],
)
def test_what_cannot_be_cached_is_named(make, error, message):
    with pytest.raises(error, match=message), wnconvert.cached(make()):
        pass


def _graph() -> nn.Module:
    return wnconvert.apply(nn.Sequential(nn.Linear(3, 3)), how="graph").model


def test_what_is_compiled_inside_composes_as_ever():
    model, other = applied(), applied()
    compiled = torch.compile(model.first, backend="eager")
    found = gradients(model.first, wnconvert.cached(model), lambda x: compiled(x))
    torch.testing.assert_close(found, gradients(other.first, nullcontext()))


@pytest.mark.parametrize("change", ["write", "freeze", "data", "cast"])
def test_parts_that_change_before_they_have_their_gradients_are_named(change):
    model = applied()
    with pytest.raises(OptionError, match=r"changed inside of wnconvert\.cached; leave that"):
        _change_inside(model, change)


@pytest.mark.parametrize("change", ["freeze", "data", "cast"])
def test_parts_that_change_before_they_are_read_again_are_named(change):
    model = applied()
    with wnconvert.cached(model):
        model(next(batches()))
        _change(model, change)
        x = next(batches()).to(model.first.bias.dtype)
        with pytest.raises(OptionError, match=r"changed inside of wnconvert\.cached; leave that"):
            model(x)


def _change_inside(model: nn.Module, how: str) -> None:
    with wnconvert.cached(model):
        model(next(batches())).sum().backward()
        _change(model, how)


def _change(model: nn.Module, how: str) -> None:
    g = model.first.weight_g
    if how == "fail":
        wnconvert.project_(model)
        raise ZeroDivisionError
    if how == "write":
        wnconvert.project_(model)
    elif how == "freeze":
        g.requires_grad_(False)
    elif how == "data":
        g.data = g.data * 2
    else:
        model.double()


def test_a_weight_that_is_folded_while_its_gradients_wait_is_named():
    model = applied()
    with pytest.raises(OptionError, match=r"'weight' was folded inside of wnconvert\.cached, where its parts had no"):
        _fold_inside(model)
    model = applied()
    with wnconvert.cached(model):
        model(next(batches()))  # without a backward nothing is lost
        wnconvert.fold(model, inplace=True)
    assert type(model.first) is nn.Linear


def _fold_inside(model: nn.Module) -> None:
    with wnconvert.cached(model):
        model(next(batches())).sum().backward()
        wnconvert.fold(model, inplace=True)


def test_parts_in_the_place_of_others_compose_as_ever():
    model = applied()
    x = next(batches())
    with wnconvert.cached(model):
        model(x)
        double = {name: part.detach() * 2 for name, part in model.named_parameters()}
        called = torch.func.functional_call(model, double, (x,))
        model.load_state_dict(double, assign=True)
        loaded = model(x)
    assert torch.equal(called, model(x))
    assert torch.equal(loaded, model(x))


def test_a_step_while_gradients_wait_is_named():
    model = applied()
    mine, other = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD([model.head.bias], lr=0.1)
    with wnconvert.cached(model):
        model(next(batches())).sum().backward()
        other.step()
        with pytest.raises(OptionError, match="have no gradients yet; leave that before the step"):
            mine.step()
    before = model.first.weight_v.detach().clone()
    mine.step()
    assert not torch.equal(model.first.weight_v, before)


def test_a_backward_after_it_was_left_is_named():
    model = applied()
    with wnconvert.cached(model):
        loss = model(next(batches())).sum()
    with pytest.raises(OptionError, match="which was left; do it inside"):
        loss.backward()


def test_an_error_inside_is_not_hidden_by_parts_that_changed():
    model = applied()
    with pytest.raises(ZeroDivisionError):
        _change_inside(model, "fail")


def test_state_takes_its_step_after_a_reading_in_evaluation_too():
    once, cached = applied("spectral_norm"), applied("spectral_norm")
    (x,) = batches(1)
    expected = [once.eval()(x), once.train()(x)]
    with wnconvert.cached(cached):
        found = [cached.eval()(x), cached.train()(x)]
    assert all(map(torch.equal, found, expected))


def test_threads_have_one_leaf(monkeypatch):
    compose, both = WeightNorm.compose, threading.Barrier(2)

    def slow(self: Any, *given: Any) -> torch.Tensor:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return compose(self, *given)

    layer = wnconvert.apply(nn.Linear(4, 4), "weight_norm").model
    (x,) = batches(1)
    layer(x).sum().backward()
    expected, layer.weight_v.grad = layer.weight_v.grad, None
    monkeypatch.setattr(WeightNorm, "compose", slow)
    with wnconvert.cached(layer):
        threads = [threading.Thread(target=lambda: layer(x).sum().backward()) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torch.testing.assert_close(layer.weight_v.grad, 2 * expected)
