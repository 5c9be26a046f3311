"""Weights that are split each in its own way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint, reasons
from wnconvert.checkpoint import Checkpoint, apply, apply_like, bits_equal, difference, fold
from wnconvert.errors import NothingToConvertError, VerificationError
from wnconvert.schemes.weight_norm import WeightNorm


def test_parameters_of_any_name_are_split_again() -> None:
    """torch's parametrizations are not for weights alone; a name that is none is known by the record."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2)
    nn.init.normal_(attention.in_proj_bias)
    parametrizations.weight_norm(attention, "in_proj_weight")
    parametrizations.weight_norm(attention, "in_proj_bias", dim=None)
    source = checkpoint({key: tensor.clone() for key, tensor in attention.state_dict().items()})
    once = fold(source).checkpoint
    applied, report = apply(once)
    assert {entry.fqn for entry in report.converted} == {"in_proj_weight", "in_proj_bias"}
    attention.load_state_dict(applied.content, strict=True)
    assert difference(once.content, fold(applied).checkpoint.content, ordered=False) is None
    for layout in ("", "parametrization"):
        text = once.metadata["wnconvert"].replace("parametrization", layout)
        applied = apply(Checkpoint(once.content, "torch_zip", {"wnconvert": text})).checkpoint
        like = apply_like(checkpoint(once.content), applied).checkpoint
        assert difference(applied.content, like.content) is None
        assert difference(once.content, fold(applied).checkpoint.content, ordered=False) is None


@pytest.mark.parametrize("key", ["weight_g", "parametrizations.weight.original0"])
def test_nothing_is_written_over_by_the_parts(key: str) -> None:
    once = fold(checkpoint(parametrizations.weight_norm(nn.Linear(3, 3)).state_dict())).checkpoint
    blocked = Checkpoint({**once.content, key: torch.ones(7)}, "torch_zip", once.metadata)
    with pytest.raises(NothingToConvertError, match=f"the key '{key}' is in the way"):
        apply(blocked)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_magnitudes_that_keep_several_dims_are_split_too(dtype: torch.dtype) -> None:
    v = torch.randn(4, 3, 5)
    g = torch.linalg.vector_norm(v, dim=2, keepdim=True)
    reference = checkpoint({"a.weight_g": g, "a.weight_v": v})
    source = checkpoint({"a.weight": torch.randn(4, 3, 5).to(dtype)})
    applied, report = apply_like(source, reference)
    assert report.exact
    assert applied.content["a.weight_g"].shape == (4, 3, 1)
    expected = torch.linalg.vector_norm(source.content["a.weight"].double(), dim=2, keepdim=True)
    torch.testing.assert_close(applied.content["a.weight_g"].double(), expected, rtol=1e-2, atol=0)
    assert difference(source.content, fold(applied).checkpoint.content) is None
    assert reasons(apply_like(checkpoint({"a.weight": torch.ones(2, 2), "b.weight": v}), both(reference)).report) == {
        "a.weight": "has shape (2, 2), and so no dims (0, 1, 2) to keep"
    }


def both(reference: Checkpoint) -> Checkpoint:
    """A reference that keeps three dims of one weight, and two of another."""
    v = torch.randn(2, 2, 2, 3)
    g = torch.linalg.vector_norm(v, dim=3, keepdim=True)
    content = {"a.weight_g": g, "a.weight_v": v}
    content |= {key.replace("a.", "b."): tensor for key, tensor in reference.content.items()}
    return checkpoint(content)


def test_a_weight_under_another_scheme_is_to_be_folded_first() -> None:
    reference = checkpoint(nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3))).state_dict())
    other = apply(checkpoint({"0.weight": torch.randn(3, 3)}), "centered_weight_norm").checkpoint
    with pytest.raises(NothingToConvertError, match="under centered_weight_norm; fold that first"):
        apply_like(other, reference)


def test_a_tied_weight_is_split_under_all_its_names() -> None:
    tied = torch.randn(4, 3)
    source = checkpoint({"embed.weight": tied, "head.weight": tied})
    reference = checkpoint(apply(checkpoint({"embed.weight": tied}), WeightNorm(p=1.0)).checkpoint.content)
    applied, report = apply_like(source, reference)
    assert len(report.converted) == 1
    assert applied.content["embed.weight_v"] is applied.content["head.weight_v"]
    assert difference(source.content, fold(applied).checkpoint.content) is None


def trained(api: str) -> nn.ModuleDict:
    """Layers under torch's spectral norm whose vectors are those of training: nearly those of the weight."""
    torch.manual_seed(0)
    norm = nn.utils.spectral_norm if api == "hook" else parametrizations.spectral_norm
    layers = {"conv": norm(nn.Conv1d(4, 6, 3)), "up": norm(nn.ConvTranspose1d(4, 6, 3)), "far": norm(nn.Linear(5, 9))}
    for name, layer in layers.items():
        for _ in range(0 if name == "far" else 200):
            layer(torch.randn(2, 4, 8))
    if api == "parametrization":  # registering it makes iterations too
        layers["far"].parametrizations.weight[0]._v = F.normalize(torch.randn(5), dim=0)
    return nn.ModuleDict(layers)


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize("api", ["hook", "parametrization"])
def test_a_folded_spectral_norm_is_held_as_it_is(api: str, like: bool) -> None:
    model = trained(api)
    names = ("conv", "up", "far") if like else ("conv", "up")
    source = checkpoint({name: dict(model[name].state_dict()) for name in names})
    folded = fold(source).checkpoint
    applied, report = apply_like(folded, source) if like else apply(folded)
    assert report.exact
    fresh = trained(api)
    for name in names:
        fresh[name].load_state_dict(applied.content[name])
        x = torch.randn(2, 4, 8) if name != "far" else torch.randn(2, 5)
        assert torch.equal(fresh[name].eval()(x), model[name].eval()(x))
        assert bits_equal(fold(applied).checkpoint.content[name]["weight"], folded.content[name]["weight"])


@pytest.mark.parametrize("api", ["hook", "parametrization"])
def test_a_weight_that_spectral_norm_would_change_is_refused(api: str) -> None:
    """Its vectors were never run, the folded file has none, and the scheme divides by those of the weight itself."""
    folded = fold(checkpoint({"far": dict(trained(api)["far"].state_dict())})).checkpoint
    with pytest.raises(
        VerificationError, match=r"'far\.weight' cannot come back under spectral norm: .* up to \d\.\d+;"
    ):
        apply(folded)
    assert apply(folded, "spectral_norm", dim=0).report.converted[0].max_abs_error > 0
