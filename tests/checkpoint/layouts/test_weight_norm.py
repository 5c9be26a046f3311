"""torch's weight norm, in both of its interfaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.layouts.grouping import DTYPES, composed, image, only, run_through


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2, 3, None])
@pytest.mark.parametrize("api", [nn.utils, parametrizations], ids=["hook", "parametrization"])
def test_weight_norm_has_the_bits_of_the_module_whichever_dim_it_keeps(api, dim, dtype) -> None:
    module = nn.Conv2d(5, 6, (2, 3)).to(dtype)
    try:
        api.weight_norm(module, dim=dim)
    except RuntimeError as error:
        pytest.skip(f"torch itself cannot: {error}")
    state = run_through(module, image(5, dtype))
    group = only(state)
    assert group.kept == (() if dim is None else (dim,))
    module(image(5, dtype))
    assert torch.equal(composed(group, state), module.weight)


def test_a_magnitude_of_ones_reduces_every_axis() -> None:
    for shape, kept in (((1, 6, 7), (0,)), ((6, 1, 7), (1,)), ((2, 3, 4), ())):
        v = torch.randn(shape)
        group = only({"c.weight_g": torch.full((1, 1, 1), 2.0), "c.weight_v": v})
        assert group.kept == kept
        torch.testing.assert_close(
            composed(group, {"c.weight_g": torch.full((1, 1, 1), 2.0), "c.weight_v": v}), 2 * v / v.norm()
        )


def test_a_vector_on_a_square_weight_is_refused() -> None:
    group = only({"c.weight_g": torch.ones(4), "c.weight_v": torch.ones(4, 4)})
    assert group.scheme is None
    assert group.problem == ("its parts do not fit together: g (4,), v (4, 4); a vector does not show the kept dim")
