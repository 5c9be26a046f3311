"""Each layout against the live module, and what stays ambiguous."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.checkpoint.layouts import twins
from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, find_groups, preset, read_preset, spelling
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.errors import OptionError, UnknownNameError

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def composed(
    group: Group, tensors: Mapping[str, Tensor], precision: str = "runtime", layout: Layout | None = None
) -> Tensor:
    assert group.problem is None, group.problem
    parts = {part: tensors[key].detach() for part, key in group.keys.items()}
    return by_layout(group, layout).weight(parts, precision)


def only(tensors: Mapping[str, Tensor], **options: object) -> Group:
    (group,) = find_groups(tensors, **options)
    return group


@torch.no_grad()
def run_through(module: nn.Module, x: Tensor, steps: int = 4) -> dict[str, Tensor]:
    """Train-mode forwards, then a change of the weights as an optimizer makes it; the state after that."""
    module.train()
    for _ in range(steps):
        module(x)
    for parameter in module.parameters():
        parameter.mul_(1 + 1e-3 * torch.randn_like(parameter))
    module.eval()
    return dict(module.state_dict())


def image(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, channels, 7, 7).to(dtype)


# weight norm


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
    assert group.problem == (
        "its parts do not fit together: g (4,), v (4, 4); a vector does not show which dim was kept"
    )


def test_names_that_are_not_of_weights_are_taken_only_if_named() -> None:
    tensors = {"attn.proj_g": torch.ones(2, 1), "attn.proj_v": torch.ones(2, 3), "q.weight_global_scale": torch.ones(1)}
    assert find_groups(tensors) == []
    assert only(tensors, named=lambda stem: stem == "attn.proj").stem == "attn.proj"


def test_a_lone_part_is_reported() -> None:
    assert only({"c.weight_v": torch.ones(2, 3)}).problem == "its parts 'v' are not those of any scheme"


def test_parts_without_data_or_of_several_dtypes_are_refused() -> None:
    assert (
        only({"c.weight_g": torch.ones(2, 1), "c.weight_v": torch.ones(2, 3).half()}).problem
        == "its parts have several dtypes"
    )
    assert only({"c.weight_g": torch.ones(2, 1).int(), "c.weight_v": torch.ones(2, 3)}).problem is not None
    assert only({"c.weight_g": torch.ones(0, 1), "c.weight_v": torch.ones(0, 3)}).problem == "its part 'g' has no data"


def test_shapes_alone_are_enough_where_they_show_everything() -> None:
    state = parametrizations.weight_norm(nn.Linear(3, 4)).state_dict()
    shapes = {key: value.to("meta") for key, value in state.items()}

    def load(key: str) -> Tensor:
        raise AssertionError(key)

    group = only(shapes, load=load)
    assert (group.kept, group.problem) == ((0,), None)


# spectral norm


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


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_spectral_norm_in_half_precision_is_that_of_the_module(dtype: torch.dtype) -> None:
    module = parametrizations.spectral_norm(nn.Linear(7, 5).to(dtype)).eval()
    state = module.state_dict()
    assert torch.equal(composed(only(state), state), module.weight)


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


def test_the_wrapper_with_weight_bar_iterates_in_evaluation_too() -> None:
    module = twins.SpectralNormBar(nn.Conv2d(5, 6, 3))
    state = {key: value.clone() for key, value in run_through(module, image(5)).items()}
    group = only(state)
    assert (group.stem, group.layout) == ("module.weight", "spectral_norm_bar")
    module(image(5))
    assert torch.equal(composed(group, state), module.module.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_biggan_recomputes_sigma_from_u0(dtype: torch.dtype) -> None:
    module = nn.Sequential(twins.BigGanConv(5, 6, 3), nn.Conv2d(6, 2, 1)).to(dtype)
    state = run_through(module, image(5, dtype))
    group = only(state)
    assert (group.stem, group.layout, list(group.keys)) == ("0.weight", "biggan", ["weight", "u0", "sv0"])
    weight = composed(group, state)
    assert torch.equal(weight, module[0].normalized())
    assert not torch.equal(weight, state["0.weight"] / state["0.sv0"]), "sv0 is for logging only"


# stacks


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


# weight standardization


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


# precision


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_the_reference_is_float64_rounded_once(dtype: torch.dtype) -> None:
    state = nn.utils.weight_norm(nn.Conv1d(8, 16, 5).to(dtype)).state_dict()
    group = only(state)
    g, v = state["weight_g"].double(), state["weight_v"].double()
    expected = (v * (g / v.flatten(1).norm(dim=1)[:, None, None])).to(dtype)
    assert torch.equal(composed(group, state, "reference"), expected)


# the registry


def test_every_layout_has_a_title_and_explains_itself() -> None:
    for name in LAYOUTS:
        layout = LAYOUTS.get(name)
        assert layout.name == name
        assert layout.title
        assert layout.__doc__


def test_what_torch_cannot_spell_is_refused() -> None:
    assert spelling("parametrization", "weight_norm").name == "parametrization"
    with pytest.raises(UnknownNameError, match="torch has no hook of unit_norm"):
        spelling("hook", "unit_norm")
    with pytest.raises(OptionError, match="has not all of the options 'epsilon'"):
        preset("timm", epsilon=1.0)
    assert read_preset("nfnet") == preset("nfnet")
    assert read_preset("nfnet:gamma=1.7,only=a,b") == preset("nfnet", gamma=1.7, only="a,b")
    for text in ("timm:epsilon=1", "timm:eps", "timm:eps=x", "biggan:gamma=1", "gain:x=1"):
        with pytest.raises(OptionError, match=text.partition(":")[0]):
            read_preset(text)
    with pytest.raises(UnknownNameError, match="did you mean 'timm-bit'"):
        preset("timm-bits")
