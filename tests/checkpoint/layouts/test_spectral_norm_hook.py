from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.checkpoint.layouts.grouping import composed, image, only, run_through


@pytest.mark.parametrize("transposed", [False, True])
def test_files_from_before_1_0_are_solved_as_torch_solves_them(transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    module = nn.utils.spectral_norm(kind(5, 6, 2))
    state = run_through(module, image(5), steps=30)
    module(image(5))
    old = OrderedDict(state)
    old["weight"] = module.weight.detach().clone()
    del old["weight_v"]
    fresh = nn.utils.spectral_norm(kind(5, 6, 2)).eval()
    group = only(old)
    assert (group.layout, group.kept) == ("spectral_norm_before_1", (1 if transposed else 0,))
    fresh.load_state_dict(OrderedDict(old), strict=True)
    fresh(image(5))
    assert torch.equal(composed(group, old), fresh.weight)


def test_on_a_square_weight_from_before_1_0_the_vector_shows_the_dim() -> None:
    for dim in (0, 1):
        module = nn.utils.spectral_norm(nn.Conv2d(5, 5, 2), dim=dim)
        old = run_through(module, image(5), steps=200)
        module(image(5))
        old["weight"] = module.weight.detach().clone()
        del old["weight_v"]
        assert only(old).kept == (dim,)
