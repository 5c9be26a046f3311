"""The monitor in the loops of trainers: the real ones where they are installed, and their order of events where not."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.processes import run_code
from wnconvert.training.monitor.callbacks import MonitorCallback
from wnconvert.training.monitor.monitoring import Monitor

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return wnconvert.apply(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))).model


def bits(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def is_as_it_must_be(monitor: Monitor, steps: int) -> None:
    """Every step was seen, with its gradients and its learning rate."""
    assert monitor.steps == steps
    assert [record.step for record in monitor.records] == [step for step in range(1, steps + 1) for _ in monitor.names]
    assert all(record.tangential > 0 and record.effective_lr > 0 and record.angle > 0 for record in monitor.records)
    assert all(record.radial < 1e-4 * record.tangential for record in monitor.records)


class ForTransformers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": self.net(x).square().mean()}


@pytest.mark.oracle
def test_the_trainer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages
        from transformers import Trainer, TrainingArguments

        def train(*callbacks: Any) -> list[Tensor]:
            arguments = TrainingArguments(
                output_dir=str(tmp_path),
                num_train_epochs=2,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
                lr_scheduler_type="constant",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                save_steps=3,
                logging_steps=1,
            )
            data = [{"x": x, "labels": torch.tensor(0)} for x in X]
            Trainer(model=model, args=arguments, train_dataset=data, callbacks=[*callbacks]).train()
            return bits(model)

        model: nn.Module = ForTransformers()
        without = train()
        model = ForTransformers()
        monitor = Monitor(model, every=1)
        watched = train(MonitorCallback(monitor))
    assert all(map(torch.equal, without, watched))
    is_as_it_must_be(monitor, steps=8)  # of 16 batches
    assert monitor.names == ("net.0.weight", "net.2.weight")


@pytest.mark.oracle
@pytest.mark.parametrize("automatic", [True, False])
def test_the_trainer_of_lightning(tmp_path: Path, automatic: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = net()
                self.automatic_optimization = automatic

            def training_step(self, batch: Tensor) -> Tensor:
                loss = self.net(batch).square().mean()
                if not automatic:
                    optimizer = self.optimizers()
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    optimizer.step()
                return loss

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.parameters(), lr=0.01)

        def train(module: nn.Module, *callbacks: Any) -> tuple[list[Tensor], Any]:
            trainer = lightning.Trainer(
                max_epochs=2,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
                accumulate_grad_batches=2 if automatic else 1,
                gradient_clip_val=0.5 if automatic else None,
                callbacks=[*callbacks],
            )
            trainer.fit(module, torch.utils.data.DataLoader(X, batch_size=4))
            return bits(module), trainer.optimizers

        without, _ = train(Module())
        module = Module()
        monitor = Monitor(module, every=1)
        watched, optimizers = train(module, MonitorCallback(monitor))
    assert all(map(torch.equal, without, watched))
    is_as_it_must_be(monitor, steps=4 if automatic else 8)
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in optimizers)


def test_the_events_of_lightning_in_their_order() -> None:
    """As its trainer fires them: those it documents, around an optimizer that steps by a closure."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer, callback = SimpleNamespace(optimizers=[optimizer]), MonitorCallback(Monitor(model, every=1))

    def fire(name: str, *arguments: Any) -> None:
        assert getattr(callback, name)(trainer, model, *arguments) is None

    fire("setup", "fit")
    for name in ("on_fit_start", "on_sanity_check_start", "on_sanity_check_end", "on_train_start"):
        fire(name)
    for index in range(3):
        fire("on_train_batch_start", X, index)

        def closure() -> Tensor:
            fire("on_before_zero_grad", optimizer)
            optimizer.zero_grad()
            loss = model(X).square().mean()
            fire("on_before_backward", loss)
            loss.backward()
            fire("on_after_backward")
            fire("on_before_optimizer_step", optimizer)
            return loss

        optimizer.step(closure)
        fire("on_train_batch_end", None, X, index)
    fire("on_save_checkpoint", {})
    fire("on_train_end")
    fire("on_fit_end")
    fire("teardown", "fit")
    is_as_it_must_be(callback.monitor, steps=3)
    assert callback.state_dict() == {}
    assert not optimizer._optimizer_step_post_hooks


def test_the_events_of_transformers_in_their_order() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = MonitorCallback(Monitor(model, every=1))

    def fire(name: str) -> None:
        assert getattr(callback, name)(object(), object(), object(), model=model, optimizer=optimizer) is None

    for name in ("on_init_end", "on_train_begin", "on_epoch_begin"):
        fire(name)
    for _ in range(3):
        fire("on_step_begin")
        model(X).square().mean().backward()
        fire("on_pre_optimizer_step")
        optimizer.step()
        fire("on_optimizer_step")
        model.zero_grad()
        fire("on_step_end")
    fire("on_epoch_end")
    fire("on_train_end")
    is_as_it_must_be(callback.monitor, steps=3)


def test_an_error_in_lightning_leaves_no_hook() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer, callback = SimpleNamespace(optimizers=[optimizer]), MonitorCallback(Monitor(model, every=1))
    callback.on_train_start(trainer, model)
    assert optimizer._optimizer_step_post_hooks
    callback.on_exception(trainer, model, KeyboardInterrupt())
    assert not optimizer._optimizer_step_post_hooks


def test_only_events_pass_by() -> None:
    with pytest.raises(AttributeError, match="'MonitorCallback' has no attribute 'something'"):
        _ = MonitorCallback(Monitor(net())).something


def test_neither_trainer_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, wnconvert; wnconvert.MonitorCallback, wnconvert.Monitor\n"
        "print({'lightning', 'pytorch_lightning', 'transformers', 'matplotlib', 'tensorboard'} & {*sys.modules})"
    )
    assert run_code(code, cwd=tmp_path).out == "set()\n"
