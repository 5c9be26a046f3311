from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import Net, checkpoint, op, state_dict
from wnconvert.checkpoint import apply, difference, fold
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.report import StaleOptimizer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "no dict of tensors"),
        ([3], "no dict of tensors"),
        ({"a.bias": torch.ones(2, 2)}, "no key looks like a plain weight: floating, of two or more dims"),
        ({"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 2)}, r"already under weight_norm \(1 weight\)"),
    ],
)
def test_nothing_to_apply_is_an_error_that_says_why(content: object, message: str) -> None:
    with pytest.raises(NothingToConvertError, match=message):
        apply(checkpoint(content))


def test_nothing_to_fold_is_an_error_that_says_why() -> None:
    with pytest.raises(NothingToConvertError, match=r"no key looks like a part of a weight.* \(--preset\)"):
        fold(checkpoint({"a.weight": torch.ones(2, 2)}))


def test_a_whole_model_is_no_state_dict() -> None:
    with pytest.raises(CheckpointError, match="whole model"):
        apply(checkpoint(nn.Linear(2, 2)))


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"fits the model: the root has no 'other\.weight'"):
        apply(checkpoint(state_dict()), ops=[op("other.weight", 2, 2)])


def test_stale_optimizer_state_is_pointed_out() -> None:
    net = Net()
    content = {"model": net.state_dict(), "optimizer": torch.optim.Adam(net.parameters()).state_dict()}
    report = apply(checkpoint(content)).report
    assert report.optimizers == (StaleOptimizer("optimizer", "dropped"),)
    assert report.notes == ()
    assert report.to_dict()["optimizers"] == [{"path": "optimizer", "became": "dropped"}]


def test_optimizer_state_of_a_model_that_is_not_in_the_file_is_left_alone() -> None:
    generator, discriminator = nn.Linear(30, 40), Net()
    for net in (generator, discriminator):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
    optimizers = [torch.optim.AdamW(net.parameters()) for net in (generator, discriminator)]
    for optimizer in optimizers:
        optimizer.step()
    states = [optimizer.state_dict() for optimizer in optimizers]
    conversion = apply(checkpoint({"mpd": discriminator.state_dict(), "optim_g": states[0], "optim_d": states[1]}))
    assert conversion.report.optimizers == (StaleOptimizer("optim_d", "dropped"),)
    assert difference(conversion.checkpoint.content["optim_g"], states[0]) is None
