from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.checkpoint.layouts.grouping import HALF, composed, image, only, run_through


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_spectral_norm_in_half_precision_is_that_of_the_module(dtype: torch.dtype) -> None:
    module = parametrizations.spectral_norm(nn.Linear(7, 5).to(dtype)).eval()
    state = module.state_dict()
    assert torch.equal(composed(only(state), state), module.weight)


def test_a_spectral_norm_on_top_of_a_weight_norm() -> None:
    module = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), dim=1)
    state = run_through(module, image(4))
    group = only(state)
    assert (group.scheme, group.kept, group.stack) == ("weight_norm+spectral_norm", (0,), ((1,),))
    assert torch.equal(composed(group, state), module.weight)


def test_two_spectral_norms() -> None:
    module = parametrizations.spectral_norm(parametrizations.spectral_norm(nn.Linear(5, 6)))
    state = run_through(module, torch.randn(2, 5))
    group = only(state)
    assert (group.scheme, group.kept, group.stack) == ("spectral_norm+spectral_norm", (0,), ((0,),))
    assert torch.equal(composed(group, state), module.weight)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return b @ a

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(2, weight.shape[1]), torch.ones(weight.shape[0], 2)


def test_parametrizations_that_keys_do_not_show_are_refused() -> None:
    doubled, below, pair = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
    parametrize.register_parametrization(doubled, "weight", Double())
    parametrize.register_parametrization(below, "weight", Double())
    parametrizations.spectral_norm(below)
    parametrize.register_parametrization(pair, "weight", Pair(), unsafe=True)
    orthogonal = parametrizations.orthogonal(nn.Linear(4, 4))
    problems = [only(module.state_dict()).problem or "" for module in (doubled, below, pair, orthogonal)]
    assert problems[0] == "its keys do not show its parametrization; fold the model itself"
    assert problems[1] == "a parametrization before position 1 leaves no trace; fold the model itself"
    assert problems[2].startswith("its parts do not fit together")
    assert problems[3] == "it is under an orthogonal parametrization ('0.base'); fold the model itself"
