"""Composing the weights of files: what a fold must know, and what the live modules compute."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.conftest import checkpoint, op, reasons, state_dict
from wnconvert.checkpoint import Checkpoint, apply, bits_equal, difference, fold
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec
from wnconvert.schemes.centered_weight_norm import CenteredWeightNorm
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection


@pytest.mark.parametrize("name", list(SCHEMES))
@pytest.mark.parametrize("dim", [0, 1, None])
def test_folding_gives_what_the_scheme_composes(name: str, dim: int | None) -> None:
    scheme = SCHEMES.get(name)()
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    content = apply(checkpoint({"a.weight": weight}), scheme, dim=dim).checkpoint
    spec = WeightSpec.of(weight, () if dim is None else (dim,))
    parts: dict[str, Tensor] = {part: content.content[f"a.weight_{part}"] for part in scheme.parts}
    common = {name: content.content[name] for name in scheme.shared} | scheme.gather([parts], [spec])
    folded = fold(content).checkpoint.content["a.weight"]
    assert bits_equal(folded, scheme.compose({**parts, **common}, spec))


def test_only_limits_a_fold_to_full_names() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3), "m": {"a.weight": torch.randn(3, 3)}})
    back = fold(apply(source).checkpoint, only=["a.weight"]).checkpoint.content
    assert list(back) == ["a.weight", "m"]
    assert list(back["m"]) == ["a.weight_g", "a.weight_v"]


def test_ops_let_fold_take_any_name() -> None:
    content = {"proj_g": torch.ones(2, 1), "proj_v": torch.ones(2, 3)}
    with pytest.raises(NothingToConvertError):
        fold(checkpoint(content))
    assert list(fold(checkpoint(content), ops=[op("proj", 2, 3)]).checkpoint.content) == ["proj"]


@pytest.mark.parametrize("scheme", [WeightNorm(p=1.0), WeightNorm(p=float("inf")), WeightNorm(log_g=True)])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_options_and_dims_are_recorded(scheme: Scheme, dim: int | None) -> None:
    source = Checkpoint({"m": {"a.weight": torch.randn(3, 3)}}, "torch_zip", {"mine": "kept"})
    applied = apply(source, scheme, dim=dim).checkpoint
    assert json.loads(applied.metadata["wnconvert"])["version"] == 1
    back = fold(applied)
    assert difference(source.content, back.checkpoint.content) is None
    assert back.checkpoint.metadata == {"mine": "kept"}
    assert back.report.notes == ()


def test_a_partial_fold_keeps_the_record_of_the_rest() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3), "b.weight": torch.randn(3, 3)})
    applied = apply(source, WeightNorm(p=1.0)).checkpoint
    half = fold(applied, selection=Selection(include=("a",))).checkpoint
    assert list(json.loads(half.metadata["wnconvert"])["weights"]) == ["b.weight"]
    assert difference(source.content, fold(half).checkpoint.content) is None


def test_without_a_record_the_assumed_options_are_told() -> None:
    applied = apply(checkpoint({"a.weight": torch.randn(3, 3)}), "centered_weight_norm").checkpoint
    bare = fold(checkpoint(applied.content))
    (note,) = bare.report.notes
    assert note.startswith("the file does not record the options of centered_weight_norm; folded with eps=1e-07")
    assert note.endswith("give others with --option")
    explicit = fold(checkpoint(applied.content), scheme=CenteredWeightNorm(eps=50.0))  # more than any norm
    assert explicit.report.notes == ()
    assert not bits_equal(explicit.checkpoint.content["a.weight"], bare.checkpoint.content["a.weight"])


def test_the_hooks_of_torch_have_its_options() -> None:
    assert fold(checkpoint(nn.utils.weight_norm(nn.Linear(3, 3)).state_dict())).report.notes == ()
    assert fold(checkpoint(nn.utils.spectral_norm(nn.Linear(3, 4)).state_dict())).report.notes == ()


def test_a_dim_that_the_parts_do_not_show_is_asked_for() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3)})
    bare = checkpoint(apply(source, "unit_norm", dim=1).checkpoint.content)
    with pytest.raises(NothingToConvertError, match="do not show the kept dim"):
        fold(bare)
    assert list(fold(bare, dim=1).checkpoint.content) == ["a.weight"]


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"version": 1}', '{"version": 1, "schemes": 3, "weights": {}}'])
def test_a_damaged_record_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="manifest"):
        fold(Checkpoint(state_dict(), "torch_zip", {"wnconvert": text}))


def test_a_record_of_a_later_version_is_refused() -> None:
    text = '{"version": 2, "schemes": [], "weights": {}}'
    with pytest.raises(CheckpointError, match="version 2; this wnconvert reads 1"):
        fold(Checkpoint(state_dict(), "torch_zip", {"wnconvert": text}))


def test_parts_that_do_not_fit_are_skipped() -> None:
    content = {
        "good.weight_g": torch.ones(2, 1),
        "good.weight_v": torch.ones(2, 3),
        "vector.weight_g": torch.ones(3),
        "vector.weight_v": torch.ones(3, 3),
        "size.weight_g": torch.ones(5, 1),
        "size.weight_v": torch.ones(3, 3),
        "short.weight_g": torch.ones(2, 1),
        "short.weight_v": torch.ones(3, 3),
        "mixed.weight_g": torch.ones(3, 1).double(),
        "mixed.weight_v": torch.ones(3, 3),
        "int.weight_g": torch.ones(3, 1, dtype=torch.int32),
        "int.weight_v": torch.ones(3, 3),
        "both.weight": torch.ones(3, 3),
        "both.weight_g": torch.ones(3, 1),
        "both.weight_v": torch.ones(3, 3),
        "half.weight_v": torch.ones(3, 3),
    }
    report = fold(checkpoint(content)).report
    assert [entry.fqn for entry in report.converted] == ["good.weight"]
    found = reasons(report)
    assert found["vector.weight"].startswith("its parts do not fit together: g (3,), v (3, 3)")
    assert found["size.weight"].startswith("its parts do not fit together: g (5, 1), v (3, 3)")
    assert found["short.weight"].startswith("its parts do not fit together: g (2, 1), v (3, 3)")
    assert found["mixed.weight"] == "its parts have several dtypes"
    assert found["int.weight"].startswith("its part 'g' has a dtype")
    assert found["both.weight"] == "the key 'both.weight' is in the way"
    assert found["half.weight"] == "its parts 'v' are not those of any scheme"


def test_weights_with_something_in_common_are_folded_together_or_not_at_all() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3), "b.weight": torch.randn(3, 3)})
    applied = apply(source, "network_norm").checkpoint
    assert list(applied.content) == ["network_g", "a.weight_network_v", "b.weight_network_v"]
    with pytest.raises(NothingToConvertError, match=r"has network_g in common with 'b\.weight'"):
        fold(applied, selection=Selection(include=("a",)))


def test_a_network_wide_norm_does_not_depend_on_the_order_of_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    content = {f"{i}.weight": torch.randn(5, 7, generator=generator) for i in range(9)}
    applied = apply(checkpoint(content), "network_norm").checkpoint
    shuffled = checkpoint(dict(sorted(applied.content.items(), reverse=True)))
    assert difference(content, fold(shuffled).checkpoint.content, ordered=False) is None


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_file_of_torchs_hooks_folds_to_the_weights_of_its_layers(dim: int | None) -> None:
    torch.manual_seed(0)
    layer = nn.utils.weight_norm(nn.Conv1d(4, 6, 3), dim=dim)
    with torch.no_grad():
        layer.weight_g.mul_(1.7)
        layer.weight_v.add_(0.3)
    layer(torch.zeros(1, 4, 5))
    folded = fold(checkpoint(OrderedDict(layer.state_dict()))).checkpoint.content
    assert bits_equal(folded["weight"], layer.weight.detach())


def test_spectral_norm_beside_weight_norm_folds_right() -> None:
    """HiFi-GAN's multi-scale discriminator has both, and `weight_v` means different things."""
    torch.manual_seed(0)
    spectral = nn.utils.spectral_norm(nn.Conv1d(4, 6, 3)).eval()
    weight = nn.utils.weight_norm(nn.Conv1d(4, 6, 3))
    for layer in (spectral, weight):
        layer(torch.zeros(1, 4, 5))
    content = {
        f"{name}.{key}": value
        for name, layer in (("s", spectral), ("w", weight))
        for key, value in layer.state_dict().items()
    }
    folded = fold(checkpoint(content)).checkpoint.content
    assert bits_equal(folded["w.weight"], weight.weight.detach())
    # torch takes sigma by `dot`, this package by elementwise sums, which autocast leaves alone
    torch.testing.assert_close(folded["s.weight"], spectral.weight.detach())
