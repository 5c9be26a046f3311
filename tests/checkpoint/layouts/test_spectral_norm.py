"""torch's spectral norm, in both of its interfaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.layouts.grouping import composed, image, only, run_through
from wnconvert.checkpoint.layouts import _spectral_norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("api", [nn.utils, parametrizations], ids=["hook", "parametrization"])
def test_spectral_norm_has_the_bits_of_the_module_and_the_residual_shows_the_dim(api, dim, dtype) -> None:
    module = api.spectral_norm(nn.Conv2d(6, 6, 3).to(dtype), dim=dim)
    state = run_through(module, image(6, dtype))
    group = only(state)
    assert (group.scheme, group.kept) == ("spectral_norm", (dim,))
    module(image(6, dtype))
    assert torch.equal(composed(group, state), module.weight)


def test_a_wrong_dim_is_another_weight() -> None:
    module = nn.utils.spectral_norm(nn.ConvTranspose2d(6, 6, 3))
    state = run_through(module, image(6))
    right, wrong = only(state), only(state, dim=0)
    assert right.kept == (1,)
    assert float((composed(right, state) - composed(wrong, state)).abs().max()) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_vectors_that_were_never_run_are_refused_until_the_user_says(dtype: torch.dtype) -> None:
    module = nn.utils.spectral_norm(nn.Linear(6, 6))
    state = {key: value.to(dtype) for key, value in module.state_dict().items()}
    group = only(state)
    assert (group.scheme, group.kept) == ("spectral_norm", None)
    assert group.problem is not None
    assert "give it (--dim)" in group.problem
    said = only(state, dim=0)
    assert (said.kept, said.problem) == ((0,), None)
    assert only(state, dim=2).problem == "its vectors do not fit dim 2, but 0 and 1"


def test_vectors_that_fit_no_dim_are_refused() -> None:
    tensors = {"a.weight_orig": torch.ones(2, 3), "a.weight_u": torch.ones(2), "a.weight_v": torch.ones(2)}
    assert only(tensors).scheme is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dot", [torch.dot, torch.vdot], ids=["hook", "parametrization"])
@pytest.mark.parametrize("shape", [(7, 5), (1, 30), (2, 3), (40, 60)], ids=str)
def test_a_weight_near_a_folded_one_takes_the_vectors_of_it(shape, dot, dtype) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    orig = torch.randn(shape)
    u, v, _ = (
        vector.float() if isinstance(vector, torch.Tensor) else vector
        for vector in _spectral_norm.first_vectors(orig, (0,))
    )
    like = {"orig": orig, "u": u, "v": v}
    folded = _spectral_norm.composed(orig, u, v, 0, dot)
    for _ in range(20):
        weight = (folded + 1e-3 * torch.randn(shape)).to(dtype)
        parts = _spectral_norm.restored(weight, (0,), like, dot)
        assert parts is not None
        assert torch.equal(_spectral_norm.composed(parts["orig"], parts["u"], parts["v"], 0, dot), weight)
        assert parts["u"].dtype is parts["v"].dtype is dtype
        torch.testing.assert_close(parts["u"], u.to(dtype), rtol=0.05, atol=0)  # as much as the weight has changed
    again = _spectral_norm.restored(folded, (0,), like, dot)
    assert again is not None
    assert all(torch.equal(again[part], tensor) for part, tensor in like.items())
    assert _spectral_norm.restored(folded * 1.2, (0,), like, dot) is None
    assert _spectral_norm.restored(folded.mT.contiguous(), (0,), like, dot) is None or shape[0] == shape[1]
