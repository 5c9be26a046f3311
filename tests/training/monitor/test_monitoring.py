"""The monitor: when it looks, what it leaves alone, and where the records go."""

from __future__ import annotations

import csv
import math
import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnconvert
from wnconvert.errors import KindError, NothingToConvertError, OptionError, OutputError
from wnconvert.training.monitor.measuring import MEASURES, Record
from wnconvert.training.monitor.monitoring import Monitor

X = torch.randn(8, 3, 9, generator=torch.Generator().manual_seed(1))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.Tanh(), nn.Dropout(0.2), nn.ConvTranspose1d(4, 5, 3), nn.Flatten(), nn.Linear(45, 2)
    )


def of_torch() -> nn.Module:
    model = plain()
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[5])
    return model


MAKERS = {
    "module": lambda: wnconvert.apply(plain()).model,
    "graph": lambda: wnconvert.apply(plain(), how="graph").model,
    "spectral": lambda: wnconvert.apply(plain(), "spectral_norm").model,
    "network": lambda: wnconvert.apply(plain(), "network_norm").model,
    "torch": of_torch,
}


def loss(model: nn.Module) -> Tensor:
    return model(X + 0.01 * torch.randn(X.shape)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        found.append(loss(model))
        found[-1].backward()
        optimizer.step()
    return [each.detach() for each in found]


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Everything that a step reads or writes."""
    tensors = [*model.state_dict().values(), torch.get_rng_state(), torch.randn(3)]
    tensors += [parameter.grad for parameter in model.parameters()]
    return tensors + [x for values in optimizer.state.values() for x in values.values() if isinstance(x, Tensor)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("every", [1, 2])
def test_training_is_the_same_with_and_without_to_the_bit(make, every):
    def run(watched: bool) -> tuple[list[Tensor], list[Tensor], int]:
        model = make()
        torch.manual_seed(3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        if not watched:
            return train(model, optimizer, 5), state(model, optimizer), 0
        with Monitor(model, optimizer=optimizer, every=every) as monitor:
            losses = train(model, optimizer, 5)
        return losses, state(model, optimizer), len(monitor.records)

    losses, without, _ = run(watched=False)
    watched, with_it, count = run(watched=True)
    assert count == (5 // every) * (2 if make is of_torch else 3)
    assert all(map(torch.equal, losses, watched))
    assert len(without) == len(with_it)
    assert all(map(torch.equal, without, with_it))


def test_it_looks_at_every_so_manieth_step():
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=3) as monitor:
        train(model, optimizer, 7)
    assert [(record.step, record.weight) for record in monitor.records] == [
        (step, name) for step in (3, 6) for name in ("0.weight", "3.weight", "5.weight")
    ]
    assert monitor.names == ("0.weight", "3.weight", "5.weight")
    assert all(getattr(record, measure) is not None for record in monitor.records for measure in MEASURES)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_gradient_is_split_along_the_direction_that_it_was_computed_at(every):
    """After a large step the direction is another, along which the gradient of that step has a part."""
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Monitor(model, optimizer=optimizer, every=every) as monitor:
        train(model, optimizer, 6)
    for record in monitor.records:
        assert record.radial < 1e-5 * record.tangential
        assert record.angle > 0.1  # of which the sine is far above that


def test_a_loop_may_call_it_itself():
    by_hook, by_hand = MAKERS["module"](), MAKERS["module"]()
    found = []
    for model, hook in ((by_hook, True), (by_hand, False)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = Monitor(model, optimizer=optimizer, every=2)
        torch.manual_seed(3)
        if hook:
            optimizer.register_step_post_hook(monitor.step)
        for _ in range(4):
            train(model, optimizer, 1)
            if not hook:
                monitor.step()
        found.append(monitor.records)
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_a_record_can_be_asked_for_at_any_time():
    model = MAKERS["module"]()
    monitor = Monitor(model)
    found = monitor.record()
    assert [record.step for record in found] == [0, 0, 0]
    assert found == monitor.records
    assert {record.angle for record in found} == {0.0}
    assert {record.effective_lr for record in found} == {None}
    loss(model).backward()
    assert monitor.record()[0].radial < 1e-6


def test_the_learning_rate_is_that_of_the_moment_and_of_the_group():
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(wnconvert.parameter_groups(model, lr=0.5, lr_g=7.0), lr=9.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    monitor = Monitor(model, optimizer=[optimizer])
    square = model[5].weight_v.detach().double().norm(dim=1).square()
    assert monitor.record()[2].effective_lr == pytest.approx((0.5 / square).mean().item(), rel=1e-5)
    optimizer.step()
    schedule.step()
    assert monitor.record()[2].effective_lr == pytest.approx((0.05 / square).mean().item(), rel=1e-5)


def test_hooks_are_gone_after_an_error():
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer=optimizer, every=1)
    with pytest.raises(RuntimeError, match="3 channels"), monitor, monitor:  # entered twice, it still counts once
        train(model, optimizer, 1), model(torch.ones(1, 2, 9))
    assert monitor.steps == 1
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, 1)
    assert monitor.steps == 1


def test_what_has_no_gradient_yet_has_none():
    model = MAKERS["module"]()
    model[0].weight_v.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        optimizer.step()  # nothing ran
        assert {record.tangential for record in monitor.records} == {None}
        train(model, optimizer, 1)
    frozen, learning, _ = monitor.latest
    assert (frozen.tangential, frozen.effective_lr, frozen.angle) == (None, None, 0.0)
    assert learning.tangential > 0


def test_a_gradient_that_is_no_number_is_recorded_as_that():
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        loss(model).mul(math.nan).backward()
        optimizer.step()
    record = monitor.latest[0]
    assert all(math.isnan(value) for value in (record.tangential, record.gradient_g, record.norm, record.angle))
    assert (record.dead, record.exploding) == (0, 4)
    assert "nan" in str(monitor)


def test_what_the_model_no_longer_composes_is_no_longer_recorded():
    model = MAKERS["module"]()
    monitor = Monitor(model)
    monitor.record()
    model[0] = nn.Conv1d(3, 4, 3)
    assert [record.weight for record in monitor.record()] == ["3.weight", "5.weight"]
    wnconvert.fold(model, inplace=True)
    assert monitor.record() == []
    assert [record.weight for record in monitor.latest] == list(monitor.names)


def test_tensors_that_are_replaced_are_found_again():
    model = MAKERS["module"]()
    monitor = Monitor(model)
    other = deepcopy(model.state_dict())
    other["0.weight_g"] *= 3
    model.load_state_dict(other, assign=True)
    assert monitor.record()[0].g == pytest.approx(other["0.weight_g"].mean().item())
    model.double()
    assert monitor.record()[0].g == pytest.approx(other["0.weight_g"].mean().item())


def test_accumulated_gradients_count_once():
    model = MAKERS["module"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        with wnconvert.cached(model):
            loss(model).backward()
            loss(model).backward()
        optimizer.step()
    assert monitor.steps == 1
    assert monitor.latest[0].tangential > 0


def test_a_table_says_what_was_seen_last():
    model = MAKERS["spectral"]()
    monitor = Monitor(model)
    assert str(monitor).split()[:3] == ["weight", "step", "norm"]
    monitor.record()
    header, *rows = str(monitor).splitlines()
    assert [row.split()[0] for row in rows] == list(monitor.names)
    assert len({len(line) for line in (header, *rows)}) == 1


def test_a_csv_file_has_a_row_for_each_record(tmp_path):
    model = MAKERS["spectral"]()
    monitor = Monitor(model)
    monitor.record()
    monitor.to_csv(tmp_path / "run.csv")
    monitor.record()
    monitor.to_csv(tmp_path / "run.csv")  # in place of the first
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["step", "weight", "scheme", *MEASURES]
    assert [row["weight"] for row in rows] == [*monitor.names, *monitor.names]
    assert [float(row["norm"]) for row in rows] == [record.norm for record in monitor.records]
    assert {row["g"] for row in rows} == {""}
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]
    with pytest.raises(OutputError, match="in no existing folder"):
        monitor.to_csv(tmp_path / "none" / "run.csv")


class Writer:
    def __init__(self) -> None:
        self.scalars: list[tuple[Any, ...]] = []

    def add_scalar(self, *scalar: Any) -> None:
        self.scalars.append(scalar)


def test_a_writer_gets_every_number():
    writer = Writer()
    monitor = Monitor(MAKERS["spectral"](), writer=writer)
    record = monitor.record()[0]
    assert ("norm/0.weight", record.norm, 0) in writer.scalars
    assert not [tag for tag, *_ in writer.scalars if tag.startswith(("g/", "radial/"))]
    assert len(writer.scalars) == 3 * 7


def test_the_writer_of_tensorboard_takes_them(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        Monitor(MAKERS["module"](), writer=writer).record()
    (file,) = tmp_path.iterdir()
    assert b"norm/0.weight" in file.read_bytes()


def test_it_draws_what_it_has_recorded(tmp_path):
    pytest.importorskip("matplotlib")
    monitor = Monitor(MAKERS["module"]())
    monitor.record()
    figure = monitor.plot(tmp_path / "run.png")
    assert len(figure.axes) == 3
    assert (tmp_path / "run.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "10", None])
def test_an_interval_that_is_none_is_named(every):
    with pytest.raises(OptionError, match=r"every is .*; it must be a whole number of steps from 1 up"):
        Monitor(MAKERS["module"](), every=every)


@pytest.mark.parametrize("limits", [{"dead": -1}, {"dead": 2, "exploding": 1}, {"exploding": math.nan}, {"dead": "0"}])
def test_limits_that_are_none_are_named(limits):
    with pytest.raises(OptionError, match="0 <= dead < exploding"):
        Monitor(MAKERS["module"](), **limits)


@pytest.mark.parametrize("make", [plain, lambda: wnconvert.fold(wnconvert.apply(plain()).model).model])
def test_a_plain_or_folded_model_is_named(make):
    with pytest.raises(
        NothingToConvertError, match=r"^'Sequential' has no composed weight to monitor; wnconvert.apply"
    ):
        Monitor(make())


def test_what_is_no_module_or_optimizer_is_named():
    with pytest.raises(KindError, match="a dict is no module"):
        Monitor({})
    with pytest.raises(OptionError, match="a float is no optimizer"):
        Monitor(MAKERS["module"](), optimizer=0.1)
    with pytest.raises(OptionError, match="a str is no writer; it must have add_scalar"):
        Monitor(MAKERS["module"](), writer="runs")


def test_the_optimizer_of_another_model_is_named():
    """As where it was made before the conversion."""
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(OptionError, match=r"has no part of '0.weight'.* make it of the parameters of the model after"):
        Monitor(wnconvert.apply(model).model, optimizer=optimizer)


def test_records_can_be_kept():
    record = Monitor(MAKERS["module"]()).record()[0]
    assert pickle.loads(pickle.dumps(record)) == record
    assert isinstance(record, Record)
