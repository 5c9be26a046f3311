"""Weight standardization, which most software does without a trace in the keys."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.grouping import DTYPES, composed, image, only
from wnconvert.checkpoint.layout import Group, Layout, find_groups, preset


def presets_on(module: nn.Module, name: str, **options: object) -> tuple[Layout, list[Group]]:
    layout = preset(name, **options)
    return layout, find_groups(module.state_dict(), presets=[layout])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mmcv_adaptive_standardization_is_found_by_its_buffers(dtype: torch.dtype) -> None:
    module = twins.ConvAws(3, 4, 3).to(dtype)
    state, x = module.state_dict(), image(3, dtype)
    group = only(state)
    assert group.layout == "mmcv-conv-aws"
    assert torch.equal(F.conv2d(x, composed(group, state), module.bias), module(x))


def test_mmcv_computes_gamma_and_beta_anew_where_gamma_is_not_positive() -> None:
    module = twins.ConvAws(3, 4, 3)
    module.weight_gamma.fill_(-1)
    state = module.state_dict()
    torch.testing.assert_close(composed(only(state), state), module.weight.detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mmcv_standardization_needs_the_names_of_its_weights(dtype: torch.dtype) -> None:
    module = nn.Sequential(twins.ConvWs(3, 4, 3), nn.Conv2d(4, 2, 1)).to(dtype)
    _, groups = presets_on(module, "mmcv-conv-ws")
    assert [group.problem for group in groups] == ["which weights are standardized is not in the file; name them"] * 2
    layout, (group,) = presets_on(module, "mmcv-conv-ws", only=r"0\.weight")
    x, weight = image(3, dtype), composed(group, module.state_dict(), layout=layout)
    assert torch.equal(F.conv2d(x, weight, module[0].bias), module[0](x))


class BitNet(nn.Module):
    """google-research/big_transfer, bit_pytorch/models.py: root, one unit, head."""

    def __init__(self, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        self.root = nn.Sequential(OrderedDict(conv=conv(3, 4, 3)))
        unit = nn.Sequential(OrderedDict(conv1=conv(4, 4, 1), downsample=conv(4, 4, 1)))
        self.body = nn.Sequential(OrderedDict(block1=nn.Sequential(OrderedDict(unit01=unit))))
        self.head = nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 2, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.root(x)))


@torch.no_grad()
def test_bit_in_its_own_form_and_in_that_of_the_published_files() -> None:
    module, plain, x = BitNet(twins.BitConv), BitNet(nn.Conv2d), image(3)
    state = dict(module.state_dict())
    layout, groups = presets_on(module, "bit")
    assert [group.stem for group in groups] == [key for key in state if key.endswith("weight") and "head" not in key]
    plain.load_state_dict({**state, **{group.stem: composed(group, state, layout=layout) for group in groups}})
    assert torch.equal(plain(x), module(x))
    kernel = state["root.conv.weight"].permute(2, 3, 1, 0).contiguous()
    published = {"resnet/root_block/standardized_conv2d/kernel": kernel, "resnet/head/conv2d/kernel": kernel}
    npz = preset("bit-npz")
    (group,) = find_groups(published, presets=[npz])
    assert torch.equal(composed(group, published, layout=npz).permute(3, 2, 0, 1), plain.root.conv.weight)


def test_a_gain_is_reported_until_the_preset_is_named() -> None:
    tensors = {
        "stem.conv1.weight": torch.randn(4, 3, 3, 3),
        "stem.conv1.gain": torch.ones(4, 1, 1, 1),
        "skipinit_gain": torch.ones(()),
    }
    group = only(tensors)
    assert group.scheme is None
    assert group.problem == "it has a gain, as scaled weight standardization has; name the preset (nfnet) to fold it"
    named = only(tensors, presets=[preset("nfnet")])
    assert (named.layout, named.scheme, named.problem) == ("nfnet", "scaled_weight_standardization", None)


def test_one_element_for_each_channel_cannot_be_standardized() -> None:
    for name in ("timm", "nfnet"):
        tensors = {"stem.conv1.weight": torch.ones(4, 1, 1, 1), "stem.conv1.gain": torch.ones(4, 1, 1, 1)}
        problem = find_groups(tensors, presets=[preset(name)])[0].problem
        assert problem == "has one element for each output channel, which cannot be standardized"
