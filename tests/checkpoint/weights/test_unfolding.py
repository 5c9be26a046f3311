"""Every layout that is not torch's own: fold, unfold, fold again, against the live modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from tests.checkpoint.layouts import twins
from wnconvert.checkpoint import bits_equal, difference, fold, unfold, verify_unfold
from wnconvert.checkpoint.comparing.effective import ordered_bits
from wnconvert.checkpoint.layout import LAYOUTS, Layout, read_preset
from wnconvert.errors import NothingToConvertError
from wnconvert.selection import Selection

APIS = {"hook": nn.utils, "parametrization": parametrizations}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def timm_conv(name: str, **options: float) -> Callable[..., nn.Module]:
    layers = pytest.importorskip("timm.layers")
    return partial(getattr(layers, name), bias=True, padding=0, **options)


def net(conv: Callable[..., nn.Module]) -> nn.Module:
    """Two standardized or normalized convolutions, named as in ResNetV2, and a plain one."""
    blocks = nn.Sequential(OrderedDict(conv1=conv(8, 8, 3), conv2=conv(8, 6, 1)))
    stages = nn.Sequential(nn.ModuleDict({"blocks": nn.Sequential(blocks)}))
    return nn.ModuleDict(
        {"stem": nn.Sequential(OrderedDict(conv=conv(3, 8, 3))), "stages": stages, "head": nn.Conv2d(6, 2, 1)}
    )


def run(model: nn.Module, x: Tensor) -> Tensor:
    return model["head"](model["stages"][0]["blocks"](model["stem"](x)))


#: layout -> the class whose files it is of.
ROWS: dict[str, Callable[[], Callable[..., nn.Module]]] = {
    "biggan": lambda: twins.BigGanConv,
    "spectral_norm_bar": lambda: lambda *shape: twins.SpectralNormBar(nn.Conv2d(*shape)),
    "mmcv-conv-aws": lambda: twins.ConvAws,
    r"mmcv-conv-ws:only=.*conv\d?\.weight": lambda: twins.ConvWs,
    r"bit:only=.*conv\d?\.weight": lambda: twins.BitConv,
    "timm": lambda: timm_conv("StdConv2d", eps=1e-6),
    "timm-bit": lambda: timm_conv("StdConv2d", eps=1e-8),
    "nfnet": lambda: timm_conv("ScaledStdConv2d", eps=1e-5),
    "nfnet:gamma=1.7": lambda: timm_conv("ScaledStdConv2d", eps=1e-5, gamma=1.7),
    "parametrization weight_norm": lambda: lambda *shape: parametrizations.weight_norm(nn.Conv2d(*shape)),
    "parametrization spectral_norm": lambda: lambda *shape: parametrizations.spectral_norm(nn.Conv2d(*shape)),
    "weight_norm_hook": lambda: lambda *shape: nn.utils.weight_norm(nn.Conv2d(*shape)),
    "spectral_norm_hook": lambda: lambda *shape: nn.utils.spectral_norm(nn.Conv2d(*shape)),
}


#: rows in which every weight comes back bit for bit; in the others the formula itself rounds.
EXACT = {name for name in ROWS if "norm" in name or name == "biggan"}


def built(row: str) -> tuple[nn.Module, Layout, str | None]:
    name, _, scheme = row.partition(" ")
    return net(ROWS[row]()), read_preset(name), scheme or None


@torch.no_grad()
def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """The model after some steps: its vectors follow its weights, and lag behind the last change."""
    model.train()
    for _ in range(40):
        run(model, x)
    for parameter in model.parameters():
        parameter.mul_(1 + 1e-3 * torch.randn_like(parameter))
    return model.eval()


def presets(layout: Layout) -> list[Layout]:
    return [] if layout.automatic else [layout]


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_fold_unfold_and_fold_again_are_what_the_live_modules_compute(row: str) -> None:
    model, layout, scheme = built(row)
    x = torch.randn(2, 3, 9, 9)
    state = {key: value.clone() for key, value in trained(model, x).state_dict().items()}
    folded = fold(checkpoint(state), presets=presets(layout)).checkpoint
    plain = net(nn.Conv2d)
    plain.load_state_dict(folded.content, strict=True)
    assert torch.equal(run(plain, x), run(model, x))

    unfolded = unfold(
        folded, layout, scheme=scheme, dim=0 if layout.api else "default", selection=Selection(exclude=("head",))
    )
    assert (len(unfolded.report.converted), unfolded.report.exact) == (3, row in EXACT)
    assert unfolded.checkpoint.content.keys() == state.keys()
    verify_unfold(folded, unfolded, unfolded.checkpoint, layout, 0 if layout.api else "default")
    twin = net(ROWS[row]()).eval()
    twin.load_state_dict(unfolded.checkpoint.content, strict=True)
    again = fold(unfolded.checkpoint, presets=presets(layout)).checkpoint
    back = net(nn.Conv2d)
    back.load_state_dict(again.content, strict=True)
    assert torch.equal(run(back, x), run(twin, x)), (
        "the file that was written folds to what the module computes with it"
    )
    for entry in unfolded.report.converted:
        weight, other = folded.content[entry.fqn], again.content[entry.fqn]
        assert float((weight.double() - other.double()).abs().max()) == entry.max_abs_error
        assert entry.max_abs_error <= 2 * torch.finfo(weight.dtype).eps * float(weight.abs().max())
    if row in EXACT:
        assert difference(folded.content, again.content, ordered=False) is None
        assert unfolded.report.exact
    else:
        assert not unfolded.report.exact
    assert unfolded.report.notes == ()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("row", [row for row in ROWS if row not in EXACT])
def test_standardized_weights_come_back_in_every_dtype(row: str, dtype: torch.dtype) -> None:
    model, layout, _ = built(row)
    folded = fold(checkpoint(model.to(dtype).state_dict()), presets=presets(layout)).checkpoint
    unfolded = unfold(folded, layout, selection=Selection(exclude=("head",)))
    assert len(unfolded.report.converted) == 3
    again = fold(unfolded.checkpoint, presets=presets(layout)).checkpoint
    for entry in unfolded.report.converted:
        weight = folded.content[entry.fqn]
        ulps = (ordered_bits(weight.abs().max()) - ordered_bits(weight.abs().max() - entry.max_abs_error)).abs()
        assert int(ulps) <= (32 if dtype == torch.float64 else 2)
        assert float((weight.double() - again.content[entry.fqn].double()).abs().max()) == entry.max_abs_error


def test_the_size_that_the_epsilon_took_is_found_again() -> None:
    small = torch.randn(4, 8, 3, 3) * torch.tensor([1e-5, 1e-3, 1e-1, 0.0]).view(4, 1, 1, 1)
    source = checkpoint({"stem.conv1.weight": small})
    timm = read_preset("timm")
    folded = fold(source, presets=[timm]).checkpoint
    own = fold(folded, presets=[timm]).checkpoint.content["stem.conv1.weight"]
    assert float((own - folded.content["stem.conv1.weight"]).abs().max()) > 1e-3, "its own direction is not enough"
    unfolded = unfold(folded, timm).checkpoint.content["stem.conv1.weight"]
    sizes = small.flatten(1).std(1)
    torch.testing.assert_close(unfolded.flatten(1).std(1)[[0, 1]], sizes[[0, 1]], rtol=1e-3, atol=0)
    assert bits_equal(unfolded[3], torch.zeros(8, 3, 3) * unfolded[3])


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ("biggan", r"has a largest singular value of about [\d.]+, but BigGAN-PyTorch's SN holds only what has 1"),
        ("spectral_norm_bar", r"has a largest singular value of about [\d.]+, but the SpectralNorm wrapper"),
        ("spectral_norm_hook", r"has a largest singular value of about [\d.]+, but torch\.nn\.utils\.spectral_norm"),
        ("timm", r"is not standardized: its channels have means up to [\d.]+ and deviations from [\d.]+ to [\d.]+"),
        ("mmcv-conv-ws:only=.*", "is not standardized: its channels have means"),
        ("nfnet", r"is not standardized: its channels have means up to [\d.]+, but timm's ScaledStdConv2d holds only"),
        ("mmcv-conv-ws", "which weights are standardized is not in the file; name them"),
        ("bit", "is no weight that big_transfer's StdConv2d can have, by its name and shape"),
    ],
)
def test_what_a_layout_cannot_hold_is_left_alone(layout: str, reason: str) -> None:
    dim = 0 if LAYOUTS.get(layout.partition(":")[0]).api else "default"
    with pytest.raises(NothingToConvertError, match=reason):
        unfold(checkpoint({"stem.conv1.weight": torch.randn(8, 3, 3, 3) + 0.1}), layout, dim=dim)


def test_a_standardized_weight_that_has_a_mean_is_reported_beside_one_that_has_none() -> None:
    weight = torch.randn(8, 3, 3, 3)
    folded = fold(checkpoint({"stem.conv1.weight": weight}), presets=[read_preset("timm")]).checkpoint.content
    content = {**folded, "stem.conv2.weight": weight, "stem.conv3.weight": weight.half().int()}
    report = unfold(checkpoint(content), "timm").report
    assert [entry.fqn for entry in report.converted] == ["stem.conv1.weight"]
    assert [entry.fqn for entry in report.skipped] == ["stem.conv2.weight"]


def test_published_kernels_are_unfolded_in_their_own_form() -> None:
    key = "resnet/root_block/standardized_conv2d/kernel"
    layout = read_preset("bit-npz")
    folded = fold(checkpoint({key: torch.randn(3, 3, 4, 8)}), presets=[layout]).checkpoint
    unfolded = unfold(folded, layout)
    again = fold(unfolded.checkpoint, presets=[layout]).checkpoint
    torch.testing.assert_close(again.content[key], folded.content[key], rtol=0, atol=5e-7)
    assert unfolded.report.converted[0].dims == (0, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("largest", [1.0, 1.0003, 1.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["biggan", "spectral_norm_bar", "spectral_norm_hook", "parametrization"])
def test_vectors_are_turned_until_sigma_is_one(layout: str, dtype: torch.dtype, largest: float) -> None:
    weight = torch.randn(16, 8, 3, 3, dtype=torch.float64)
    weight = (largest * weight / torch.linalg.matrix_norm(weight.flatten(1), 2)).to(dtype)
    torchs = LAYOUTS.get(layout).api is not None
    unfolded = unfold(checkpoint({"c.weight": weight}), layout, scheme="spectral_norm", dim=0 if torchs else "default")
    assert unfolded.report.exact
    name = "c.module.weight" if layout == "spectral_norm_bar" else "c.weight"
    back = fold(unfolded.checkpoint).checkpoint.content
    assert torch.equal(back.get(name, back.get("c.weight")), weight)


def test_a_wrapper_renames_what_is_in_its_module() -> None:
    weight = torch.eye(4)
    content = {"conv.weight": weight, "conv.bias": torch.ones(4), "head.weight": 5 * weight}
    unfolded = unfold(checkpoint(content), "spectral_norm_bar").checkpoint
    keys = ["conv.module.weight_u", "conv.module.weight_v", "conv.module.weight_bar", "conv.module.bias", "head.weight"]
    assert list(unfolded.content) == keys
    assert difference(content, fold(unfolded).checkpoint.content) is None
    for more in ("conv.inner.bias", "conv.module.bias"):
        with pytest.raises(NothingToConvertError, match=r"has others in it|is in the way"):
            unfold(checkpoint({**content, more: torch.ones(4)}), "spectral_norm_bar")


@pytest.mark.parametrize(
    ("layout", "stray"),
    [
        ("parametrization", "a.parametrizations.weight.original2"),
        ("parametrization", "a.parametrizations.weight.1._u"),
        ("weight_norm_hook", "a.weight_s"),
        ("biggan", "a.u1"),
    ],
)
def test_keys_that_would_be_taken_for_parts_are_in_the_way(layout: str, stray: str) -> None:
    content = {"a.weight": torch.eye(4), stray: torch.ones(1, 4), "b.weight": torch.eye(4)}
    report = unfold(checkpoint(content), layout).report
    assert [entry.fqn for entry in report.converted] == ["b.weight"]
    reasons = [entry.reason for entry in report.skipped if entry.fqn == "a.weight"]
    assert any("would be taken for one of its parts" in reason for reason in reasons)
