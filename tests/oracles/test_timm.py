"""The standardized convolutions of timm become plain ones, and their file that of the plain network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wnconvert

timm = pytest.importorskip("timm")

from timm import layers  # noqa: E402 - only where timm is installed
from timm.models import nfnet  # noqa: E402

pytestmark = pytest.mark.oracle

#: what standardizes -> what takes its place, with the very same padding
PLAIN = {
    layers.StdConv2d: nn.Conv2d,
    layers.StdConv2dSame: layers.Conv2dSame,
    layers.ScaledStdConv2d: nn.Conv2d,
    layers.ScaledStdConv2dSame: layers.Conv2dSame,
}


def _bit() -> nn.Module:
    return timm.create_model("resnetv2_50x1_bit", num_classes=10)


def _nfnet() -> nn.Module:
    return timm.create_model("test_nfnet", num_classes=10)


def _deepmind_nfnet() -> nn.Module:
    """A small network of the kind that DeepMind published, with the padding of TensorFlow."""
    return nfnet.NormFreeNet(nfnet._dm_nfnet_cfg((1, 1, 1, 1), channels=(256, 256, 256, 256)), num_classes=10)


def _hybrid() -> nn.Module:
    return timm.create_model("vit_tiny_r_s16_p8_224", num_classes=10, img_size=64)


def _model(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """Return a model with nothing zero, which would hide what comes after, and an input."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model, torch.randn(1, 3, 64, 64)


def _standardized(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) in PLAIN]


def _plain_variant(make: Callable[[], nn.Module]) -> nn.Module:
    """Build the network anew, with plain convolutions in the place of the standardized ones."""
    model = make().eval()
    for name in _standardized(model):
        old: Any = model.get_submodule(name)
        same = isinstance(old, (layers.StdConv2dSame, layers.ScaledStdConv2dSame)) and old.same_pad
        new = (layers.Conv2dSame if same else nn.Conv2d)(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            old.groups,
            bias=old.bias is not None,
        )
        model.set_submodule(name, new)
    return model


each_model = pytest.mark.parametrize(("make", "count"), [(_bit, 53), (_nfnet, 25), (_deepmind_nfnet, 25), (_hybrid, 1)])


@each_model
@torch.no_grad()
def test_every_standardized_convolution_is_folded(make: Callable[[], nn.Module], count: int) -> None:
    model, x = _model(make)
    names = _standardized(model)
    assert len(names) == count
    folded, report = wnconvert.fold(model)
    assert [entry.fqn for entry in report.converted] == [f"{name}.weight" for name in names]
    assert torch.equal(folded(x), model(x))
    assert not any(key.endswith("gain") and "conv" in key for key in folded.state_dict())


@each_model
@torch.no_grad()
def test_the_folded_file_is_one_of_the_plain_network(make: Callable[[], nn.Module], count: int) -> None:
    model, x = _model(make)
    plain = _plain_variant(make)
    assert not _standardized(plain)
    folded = wnconvert.fold(model).model
    assert plain.load_state_dict(folded.state_dict(), strict=True)
    assert list(plain.state_dict()) == list(folded.state_dict())
    assert torch.equal(plain(x), model(x))


@torch.no_grad()
def test_timms_own_reparametrization_leaves_them_standardized() -> None:
    from timm.utils import reparameterize_model

    assert len(_standardized(reparameterize_model(_model(_bit)[0]))) == 53
