"""Monitors that are copied, nested, of several optimizers, and of models that change while it looks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from wnconvert.training.monitor.monitoring import Monitor

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def net(scheme: Any = "weight_norm", **how: Any) -> nn.Module:
    torch.manual_seed(0)
    return wnconvert.apply(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), scheme, **how).model


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def step(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    model.zero_grad()
    model(X).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("make", [copy.deepcopy, lambda monitor: pickle.loads(pickle.dumps(monitor))])
def test_a_copy_is_not_inside_of_the_context(make):
    model = net()
    with Monitor(model, optimizer=sgd(model), every=1, live=True) as monitor:
        (optimizer,) = monitor.optimizers
        step(model, optimizer)
        twin = make(monitor)
        with twin:
            (other,) = twin.optimizers
            assert other is not optimizer
            step(twin._model, other)
        step(twin._model, other)  # which was left
        assert (twin.steps, monitor.steps) == (2, 1)
        step(model, optimizer)
    assert monitor.steps == 2
    assert not optimizer._optimizer_step_post_hooks
    # both saw the same
    assert twin.records == monitor.records


def test_inside_of_itself_it_counts_until_the_outer_is_left():
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer=optimizer) as monitor:
        with monitor:
            step(model, optimizer)
        step(model, optimizer)
    step(model, optimizer)
    assert monitor.steps == 2


def test_a_context_that_was_left_twice_can_be_entered():
    model = net()
    monitor = Monitor(model, optimizer=sgd(model))
    monitor.__exit__(None, None, None)
    with monitor:
        step(model, *monitor.optimizers)
    step(model, *monitor.optimizers)
    assert monitor.steps == 1


def test_several_monitors_look_at_one_model():
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer=optimizer, every=2) as outer, Monitor(model, optimizer=optimizer, every=2) as inner:
        for _ in range(4):
            step(model, optimizer)
    assert len(outer.records) == 4
    assert outer.records == inner.records


@pytest.mark.parametrize("every", [1, 3])
def test_of_several_optimizers_each_has_its_weights(every):
    """The gradient of the first weight must not be split along where its optimizer has moved it to already."""

    def records(split: bool) -> list[Any]:
        model = net()
        parts = [model[0].parameters(), model[2].parameters()] if split else [model.parameters()]
        optimizers = [torch.optim.SGD(part, lr=1.0) for part in parts]
        with Monitor(model, optimizer=optimizers, every=every) as monitor:
            for _ in range(6):
                step(model, *optimizers)
        assert monitor.steps == 6
        return monitor.records

    found = records(split=True)
    assert found == records(split=False)
    assert len(found) == 12 // every
    assert all(record.radial < 1e-5 * record.tangential for record in found)


def test_an_optimizer_that_steps_more_often_is_counted_by_itself():
    model = net()
    one, other = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)
    with Monitor(model, optimizer=[one, other], every=2) as monitor:
        for _ in range(2):
            step(model, one)
            step(model, one, other)
    assert monitor.steps == 4
    assert [(record.step, record.weight) for record in monitor.records] == [
        (2, "0.weight"),
        (4, "0.weight"),
        (2, "2.weight"),
    ]


def test_optimizers_may_be_replaced_inside():
    model = net()
    one, other = sgd(model), sgd(model)
    with Monitor(model, optimizer=one, every=1) as monitor:
        step(model, one)
        monitor.optimizers = other
        step(model, one)  # which is looked at no longer
        step(model, other)
    assert monitor.steps == 2
    assert not one._optimizer_step_post_hooks
    assert not other._optimizer_step_post_hooks


def test_what_weights_of_several_optimizers_share_is_computed_of_all():
    model = net("network_norm")
    optimizers = [torch.optim.SGD([part], lr=0.0) for part in model.parameters() if part.dim() == 2]
    with Monitor(model, optimizer=optimizers, every=1) as monitor:
        step(model, *optimizers)
    norms = {record.weight: record.norm_max for record in monitor.records}
    for path in ("0", "2"):
        expected = model.get_submodule(path).weight.norm().item()  # its rows are whole tensors
        assert norms[f"{path}.weight"] == pytest.approx(expected, rel=1e-5)


def test_a_step_that_a_scaler_skips_is_none():
    model = net()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=4.0)
    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        for scale in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(X).square().mean() * scale).backward()
            scaler.step(optimizer)
            scaler.update()
    assert monitor.steps == 2
    # gradients as they are without the scale
    other = net()
    with Monitor(other, optimizer=sgd(other), every=1) as expected:
        for _ in range(2):
            step(other, *expected.optimizers)
    assert [record.tangential for record in monitor.records] == pytest.approx(
        [record.tangential for record in expected.records]
    )


def test_a_step_by_a_closure():
    model = net()
    optimizer = sgd(model)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(X).square().mean()
        loss.backward()
        return loss

    with Monitor(model, optimizer=optimizer, every=2) as monitor:
        for _ in range(4):
            optimizer.step(closure)
    assert len(monitor.records) == 4
    assert all(record.radial < 1e-5 * record.tangential for record in monitor.records)


def test_a_gradient_of_an_optimizer_that_moves_several_times_in_a_step_is_not_split():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        for _ in range(2):
            optimizer.step(closure)
    assert [(record.radial, record.tangential) for record in monitor.records] == [(None, None)] * 4
    assert all(record.angle > 0 and record.gradient_g > 0 for record in monitor.records)


def test_a_model_that_is_moved_cast_or_thawed_later():
    model = net().requires_grad_(False)
    monitor = Monitor(model, every=1)
    assert [record.tangential for record in monitor.record()] == [None, None]
    model.requires_grad_(True)
    model.bfloat16()
    model(X.bfloat16()).square().mean().backward()
    assert all(record.tangential > 0 for record in monitor.record())
    model.float()
    assert all(record.angle < 0.5 for record in monitor.record())
    model.to("meta")
    for look in (monitor.record, lambda: Monitor(model)):
        with pytest.raises(wnconvert.OptionError, match=r"'0.weight' has no data; load or initialize the model before"):
            look()


def test_in_other_modes_and_contexts():
    model = net()
    with torch.inference_mode():
        monitor = Monitor(model, every=1)
        monitor.record()
    model.eval()(X).square().mean().backward()
    monitor.step()
    with torch.no_grad():
        monitor.record()
    with torch.autocast("cpu", torch.bfloat16):
        monitor.record()
    found = monitor.records[-2:]
    assert {record.norm for record in found} == {record.norm for record in monitor.records[:2]}
    assert {record.angle for record in found} == {0.0}


@pytest.mark.parametrize(
    "wrap",
    [lambda model: torch.compile(model, backend="eager"), nn.DataParallel, lambda model: nn.ModuleDict({"net": model})],
    ids=["compiled", "replicas", "inside"],
)
def test_a_model_in_another(wrap):
    model, wrapped = net(), wrap(other := net())
    with Monitor(model, optimizer=sgd(model), every=1) as expected:
        step(model, *expected.optimizers)
    with Monitor(wrapped, optimizer=sgd(wrapped), every=1) as monitor:
        step(other if isinstance(wrapped, nn.ModuleDict) else wrapped, *monitor.optimizers)
    assert [record.tangential for record in monitor.records] == [record.tangential for record in expected.records]
    assert [name.removesuffix(".weight")[-1] for name in monitor.names] == ["0", "2"]


def test_recurrent_layers_and_shared_weights():
    torch.manual_seed(0)
    model = wnconvert.apply(nn.LSTM(4, 3, batch_first=True)).model
    with Monitor(model, optimizer=sgd(model), every=1) as monitor:
        model(X[:, None])[0].square().mean().backward()
        monitor.optimizers[0].step()
    assert monitor.names == ("weight_ih_l0", "weight_hh_l0")
    assert all(record.tangential > 0 for record in monitor.records[:1])

    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    model = wnconvert.apply(shared).model
    with Monitor(model, optimizer=sgd(model), every=1) as monitor:
        step(model, *monitor.optimizers)
    assert len(monitor.records) == 1
