from __future__ import annotations

import torch
from torch import nn

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.grouping import composed, image, only, run_through


def test_the_wrapper_with_weight_bar_iterates_in_evaluation_too() -> None:
    module = twins.SpectralNormBar(nn.Conv2d(5, 6, 3))
    state = {key: value.clone() for key, value in run_through(module, image(5)).items()}
    group = only(state)
    assert (group.stem, group.layout) == ("module.weight", "spectral_norm_bar")
    module(image(5))
    assert torch.equal(composed(group, state), module.module.weight)
