"""Affine maps moved into layers: the formula in float64, against the two ops run one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wnconvert.fusion import FUSIONS, Affine, LayerSpec, fuse_after, fuse_before, holds, rounded

Op = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def conv(rank: int, groups: int) -> Op:
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return lambda x, weight, bias: function(x, weight, bias, stride=2, groups=groups)


def conv_transpose(rank: int, groups: int) -> Op:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    return lambda x, weight, bias: function(x, weight, bias, stride=2, padding=1, output_padding=1, groups=groups)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


#: op, spec, shape of the weight, shape of the input, whether zeros surround the input
LAYERS = {
    "linear": (F.linear, LayerSpec(), (5, 3), (4, 3), False),
    "product": (product, LayerSpec(transposed=True), (3, 5), (4, 3), False),
    **{
        f"conv{rank}d, {groups} groups": (
            *(conv(rank, groups), LayerSpec(groups=groups), (6, 4 // groups, *[3] * rank)),
            *((2, 4, *[7] * rank), False),
        )
        for rank in (1, 2, 3)
        for groups in (1, 2)
    },
    **{
        f"conv_transpose{rank}d, {groups} groups": (
            *(conv_transpose(rank, groups), LayerSpec(True, groups), (4, 6 // groups, *[3] * rank)),
            *((2, 4, *[5] * rank), True),
        )
        for rank in (1, 2, 3)
        for groups in (1, 2)
    },
    "depthwise": (conv(2, 4), LayerSpec(groups=4), (4, 1, 3, 3), (2, 4, 7, 7), False),
    "depthwise transposed": (conv_transpose(1, 4), LayerSpec(True, 4), (4, 2, 3), (2, 4, 7), True),
    "as many channels in as out": (conv_transpose(2, 1), LayerSpec(True), (8, 8, 3, 3), (2, 8, 5, 5), True),
}


def affine(channels: int, scale: bool, shift: bool, alike: bool) -> Affine:
    shape = () if alike else (channels,)
    made = [torch.rand(shape, dtype=torch.float64) + 0.5 if given else None for given in (scale, shift)]
    return Affine(*made)


def mapped(x: Tensor, by: Affine, dim: int) -> Tensor:
    def wide(each: Tensor) -> Tensor:
        return each if each.dim() == 0 else each.reshape(-1, *[1] * (x.dim() - dim - 1))

    x = x if by.scale is None else x * wide(by.scale)
    return x if by.shift is None else x + wide(by.shift)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("alike", [True, False], ids=["one for all", "by channel"])
@pytest.mark.parametrize(("scale", "shift"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_map_moves_into_the_layer(name: str, scale: bool, shift: bool, alike: bool, has_bias: bool):
    op, spec, shape, inputs, surrounded = LAYERS[name]
    torch.manual_seed(0)
    weight, x = torch.randn(shape, dtype=torch.float64), torch.randn(inputs, dtype=torch.float64)
    bias = torch.randn(spec.channels_out(weight), dtype=torch.float64) if has_bias else None
    kept = weight.clone()

    after = affine(spec.channels_out(weight), scale, shift, alike)
    torch.testing.assert_close(
        op(x, *fuse_after(weight, bias, after, spec)), mapped(op(x, weight, bias), after, 1), rtol=1e-13, atol=1e-13
    )
    before = affine(spec.channels_in(weight), scale, shift and not surrounded, alike)
    torch.testing.assert_close(
        op(x, *fuse_before(weight, bias, before, spec)), op(mapped(x, before, 1), weight, bias), rtol=1e-13, atol=1e-13
    )
    assert torch.equal(weight, kept)


def test_a_shift_before_zeros_would_be_another_function():
    """What `surrounded` layers are refused for."""
    weight, x = torch.ones(1, 1, 3, dtype=torch.float64), torch.ones(1, 1, 4, dtype=torch.float64)
    shift = Affine(shift=torch.ones(1, dtype=torch.float64))
    fused, bias = fuse_before(weight, None, shift, LayerSpec())
    true, made = F.conv1d(x + 1, weight, padding=1), F.conv1d(x, fused, bias, padding=1)
    assert torch.equal(true[..., 1:-1], made[..., 1:-1])
    assert not torch.equal(true, made)


def test_a_weight_is_rounded_once_with_its_strides():
    like = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).bfloat16()
    exact = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    made = rounded(exact, like)
    assert made.stride() == like.stride()
    assert torch.equal(made, exact.to(torch.bfloat16))
    assert rounded(torch.ones(3, dtype=torch.float64), like).dtype == torch.bfloat16


def test_each_fusion_is_named_after_its_file_and_says_what_it_is():
    assert list(FUSIONS) == ["batch_norm", "gain"]
    for name in FUSIONS:
        kind = FUSIONS.get(name)
        assert kind.__module__ == f"wnconvert.fusions.{name}"
        assert kind.formula
        assert kind.reference.startswith("https://")


def test_what_a_dtype_holds():
    torch.manual_seed(0)
    weight = torch.randn(8, 8, dtype=torch.float64)
    bias = torch.full((8,), 1e-7, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert holds(dtype, weight, None)
        assert holds(dtype, weight, bias)
        assert not holds(dtype, weight * float("inf"), None)
        assert not holds(dtype, weight, bias / 0)
    for factor, dtype in ((1e-6, torch.float16), (1e6, torch.float16), (1e-41, torch.float32), (1e39, torch.bfloat16)):
        assert not holds(dtype, weight * factor, None)
        assert holds(torch.float64, weight * factor, None)
    assert not holds(torch.float16, weight, bias * 1e12)


def test_one_small_channel_is_not_lost_for_the_others():
    weight = torch.ones(2, 3, dtype=torch.float64)
    weight[0] *= 1 / 3e7
    assert holds(torch.float16, weight, None)
