"""The monitor as a callback of trainers."""

from __future__ import annotations

from typing import Any

from wnconvert.training.monitor.monitoring import Monitor


class MonitorCallback:
    """Lets a monitor look on in the trainers of Lightning and of transformers, of which nothing is imported.

        trainer = Trainer(..., callbacks=[wnconvert.MonitorCallback(monitor)])

    The optimizers are those of the trainer. With Lightning, the monitor looks after each of their steps, and with
    transformers at ``on_optimizer_step``: in both, while the gradients of the step are there still, and not for each
    batch where they are accumulated. It says nothing to the trainer and has no state of its own in checkpoints.

    Attributes:
        monitor: the monitor.
        state_key: its name in Lightning's checkpoints, which say nothing more of it.
    """

    state_key = "wnconvert.MonitorCallback"

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Show the live table, if there is to be one, in the trainer of transformers."""
        self.monitor.show()

    def on_optimizer_step(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Look after a step of the trainer of transformers."""
        if not self.monitor.optimizers:
            self.monitor.optimizers = optimizer
        self.monitor.step()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Look after each step of the optimizers of Lightning's trainer from now on."""
        self.monitor.optimizers = trainer.optimizers
        self.monitor.__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave the optimizers alone again, in either trainer."""
        self.monitor.__exit__(None, None, None)

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Leave the optimizers alone again after an error in Lightning's trainer."""
        self.monitor.__exit__(None, None, None)

    def setup(self, *_: Any, **__: Any) -> None:
        """Do nothing when Lightning begins."""

    def teardown(self, *_: Any, **__: Any) -> None:
        """Do nothing when Lightning has ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning's checkpoints say of it: nothing."""
        return {}

    def __getattr__(self, name: str) -> Any:
        # trainers call each callback for each of their events
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


def _nothing(*_: Any, **__: Any) -> None:
    """Let an event pass."""
