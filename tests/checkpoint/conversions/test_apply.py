from __future__ import annotations

import gc
import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.conftest import WEIGHTS, Net, checkpoint, state_dict, training_checkpoint
from wnconvert.checkpoint import Checkpoint, apply, bits_equal, difference, find_state_dicts, fold
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.errors import CheckpointError, NothingToConvertError, UnknownNameError
from wnconvert.report import Report
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection, WeightedOp

SCHEME_NAMES = list(SCHEMES)


def reasons(report: Report) -> dict[str, str]:
    return {entry.fqn: entry.reason for entry in report.skipped}


def op(fqn: str, *shape: int, name: str = "linear", aliases: tuple[str, ...] = ()) -> WeightedOp:
    return WeightedOp(fqn, (name,), shape, torch.float32, (0,), aliases)


# round trips


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_fold_undoes_apply_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    scheme = SCHEMES.get(name)()
    source = checkpoint(training_checkpoint(dtype))
    applied = apply(source, scheme, dim=0)
    back = fold(applied.checkpoint)
    assert len(applied.report.converted) == 2 * len(WEIGHTS) + 1
    assert applied.report.skipped == ()
    assert {entry.fqn for entry in back.report.converted} == {entry.fqn for entry in applied.report.converted}
    assert back.checkpoint.metadata == source.metadata
    if scheme.preserving:
        assert applied.report.exact
        assert difference(source.content, back.checkpoint.content) is None
    else:
        assert not applied.report.exact


@pytest.mark.parametrize("name", SCHEME_NAMES)
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


def test_the_input_is_not_modified() -> None:
    content, same = training_checkpoint(), training_checkpoint()
    applied = apply(checkpoint(content)).checkpoint
    assert difference(same, content) is None
    again = apply(checkpoint(same)).checkpoint
    fold(applied)
    assert difference(again.content, applied.content) is None


def test_parts_stand_where_the_weight_stood() -> None:
    content = {"a.bias": torch.ones(2), "b.weight": torch.ones(2, 3), "b.bias": torch.ones(2)}
    applied = apply(checkpoint(content)).checkpoint.content
    assert list(applied) == ["a.bias", "b.weight_g", "b.weight_v", "b.bias"]


@pytest.mark.parametrize("scheme", ["weight_norm", "centered_weight_norm", "sigma_reparam"])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 1, 2, 2), (4, 3, 1, 1), (1, 1, 2, 2)])
def test_memory_formats_survive(shape: tuple[int, ...], scheme: str) -> None:
    weight = torch.randn(shape).to(memory_format=torch.channels_last)
    source = checkpoint({"a.weight": weight})
    back = fold(apply(source, scheme, dim=0).checkpoint).checkpoint.content["a.weight"]
    assert back.stride() == back.clone().stride() == weight.stride()
    assert bits_equal(back, weight)


def test_parameters_stay_parameters() -> None:
    weight = nn.Parameter(torch.randn(3, 2), requires_grad=False)
    source = checkpoint({"a.weight": weight})
    applied = apply(source, "spectral_norm", dim=0).checkpoint
    kinds = {key: isinstance(value, nn.Parameter) for key, value in applied.content.items()}
    assert kinds == {"a.weight_orig": True, "a.weight_u": False, "a.weight_v": False}
    assert not applied.content["a.weight_orig"].requires_grad
    assert isinstance(fold(applied).checkpoint.content["a.weight"], nn.Parameter)


# ties


def ties(content: Any) -> set[frozenset[str]]:
    """Sets of names that lead to the same elements of the same storage."""
    names: dict[Any, set[str]] = {}
    for found in find_state_dicts(content):
        for key, tensor in found.tensors.items():
            names.setdefault(storage_key(tensor), set()).add(found.fqn(key))
    return {frozenset(same) for same in names.values() if len(same) > 1}


def test_tied_entries_are_split_once_and_stay_tied() -> None:
    source = checkpoint(training_checkpoint())
    applied = apply(source)
    assert frozenset({"model.conv.weight_v", "nested.same.first.weight_v"}) in ties(applied.checkpoint.content)
    assert frozenset({"model.embed.weight_g", "model.head.weight_g"}) in ties(applied.checkpoint.content)
    back = fold(applied.checkpoint)
    assert ties(back.checkpoint.content) == ties(source.content) != set()
    assert "model.head.weight" not in {entry.fqn for entry in applied.report.converted}


def test_a_tied_weight_is_chosen_by_any_of_its_names() -> None:
    content = apply(checkpoint(state_dict()), selection=Selection(include=("head",))).checkpoint.content
    assert {key for key in content if key.endswith("_v")} == {"embed.weight_v", "head.weight_v"}


# which weights


@pytest.mark.parametrize("glob", ["model.conv", "conv.weight", "model.c*"])
def test_globs_match_with_and_without_the_path(glob: str) -> None:
    source = checkpoint({"model": state_dict()})
    report = apply(source, selection=Selection(include=(glob,))).report
    assert [entry.fqn for entry in report.converted] == ["model.conv.weight"]
    assert set(reasons(report).values()) == {f"not included by {glob!r}"}


def test_every_weight_is_converted_or_skipped_with_a_reason() -> None:
    nan = torch.ones(2, 2)
    nan[0, 0] = float("nan")
    content = {
        "good.weight": torch.ones(2, 2),
        "nan.weight": nan,
        "meta.weight": torch.ones(2, 2, device="meta"),
        "empty.weight": torch.ones(0, 2),
        "float8.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "taken.weight": torch.ones(2, 2),
        "taken.weight_v": torch.ones(1),
        "mmcv.weight": torch.ones(2, 2),
        "mmcv.weight_gamma": torch.ones(2, 1),
        "done.weight_g": torch.ones(2, 1),
        "done.weight_v": torch.ones(2, 2),
        "other.weight_direction": torch.ones(2, 2),
    }
    report = apply(checkpoint(content)).report
    assert [entry.fqn for entry in report.converted] == ["good.weight"]
    assert reasons(report) == {
        "nan.weight": "it holds non-finite values",
        "meta.weight": "has no data",
        "empty.weight": "it is empty, of shape (0, 2)",
        "float8.weight": "its dtype float8_e4m3fn is none that a scheme can compute with",
        "taken.weight": "the key 'taken.weight_v' is in the way",
        "mmcv.weight": "the key 'mmcv.weight_gamma' is in the way",
        "done.weight": "already under weight_norm",
        "other.weight": "under unit_norm; fold that first",
    }
    assert {entry.fqn for entry in report.skipped if entry.already} == {"done.weight"}


def test_non_finite_weights_are_left_alone_by_every_scheme() -> None:
    content = {"a.weight": torch.full((2, 2), float("inf")), "b.weight": torch.ones(2, 2)}
    for name in SCHEME_NAMES:
        assert [entry.fqn for entry in apply(checkpoint(content), name, dim=0).report.converted] == ["b.weight"]


def test_what_spans_all_weights_is_not_applied_beside_parts_of_some() -> None:
    content = {"a.weight": torch.ones(2, 2), "b.weight_network_v": torch.ones(2, 2)}
    with pytest.raises(NothingToConvertError, match=r"the key 'b\.weight_network_v' is in the way"):
        apply(checkpoint(content), "network_norm", dim=0)


class Lossy(WeightNorm):
    """Promises the same bits and breaks the promise for large weights."""

    def compose(self, parts: Any, spec: WeightSpec) -> Tensor:
        composed = super().compose(parts, spec)
        return composed + 1 if composed.abs().max() > 10 else composed


def test_a_weight_whose_parts_do_not_give_it_back_is_left_alone() -> None:
    content = {"small.weight": torch.ones(2, 2), "large.weight": torch.full((2, 2), 99.0)}
    applied = apply(checkpoint(content), Lossy())
    assert [entry.fqn for entry in applied.report.converted] == ["small.weight"]
    assert reasons(applied.report) == {"large.weight": "its norm has no exact representation in float32"}
    assert bits_equal(applied.checkpoint.content["large.weight"], content["large.weight"])


def test_a_dim_that_a_weight_has_not_is_a_reason() -> None:
    content = {"conv.weight": torch.ones(2, 3, 4), "linear.weight": torch.ones(2, 3)}
    report = apply(checkpoint(content), dim=2).report
    assert [entry.fqn for entry in report.converted] == ["conv.weight"]
    assert "has no dim 2" in reasons(report)["linear.weight"]


def test_the_output_dim_needs_a_model() -> None:
    with pytest.raises(NothingToConvertError, match="without a model"):
        apply(checkpoint(state_dict()), dim="output")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "no dict of tensors"),
        ([3], "no dict of tensors"),
        ({"a.bias": torch.ones(2, 2)}, "no key looks like one"),
        ({"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 2)}, r"already under weight_norm \(1 weight\)"),
    ],
)
def test_nothing_to_apply_is_an_error_that_says_why(content: object, message: str) -> None:
    with pytest.raises(NothingToConvertError, match=message):
        apply(checkpoint(content))


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'weight_norm'"):
        apply(checkpoint(state_dict()), "weight_nrom")


def test_a_whole_model_is_no_state_dict() -> None:
    with pytest.raises(CheckpointError, match="whole model"):
        apply(checkpoint(nn.Linear(2, 2)))


# the ops of a model decide


def test_ops_decide_which_keys_are_weights() -> None:
    state = state_dict()
    ops = [op("conv.weight", 8, 3, 3, 3, name="conv2d"), op("head.weight", 7, 4, aliases=("embed.weight",))]
    report = apply(checkpoint({"a": state, "b": {"x.weight": torch.ones(2, 2)}}), dim="output", ops=ops).report
    assert [(entry.fqn, entry.op) for entry in report.converted] == [
        ("a.conv.weight", "conv2d"),
        ("a.head.weight", "linear"),
    ]
    assert report.notes == ("left as it is, for it does not fit the model: b",)


def test_what_a_model_ties_and_a_file_does_not_keeps_its_values() -> None:
    content = {"a.weight": torch.ones(2, 3), "b.weight": torch.full((2, 3), 2.0)}
    applied = apply(checkpoint(content), ops=[op("a.weight", 2, 3, aliases=("b.weight",))])
    assert [entry.fqn for entry in applied.report.converted] == ["a.weight", "b.weight"]
    assert difference(content, fold(applied.checkpoint).checkpoint.content) is None


def test_only_limits_a_fold_to_full_names() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3), "m": {"a.weight": torch.randn(3, 3)}})
    back = fold(apply(source).checkpoint, only=["a.weight"]).checkpoint.content
    assert list(back) == ["a.weight", "m"]
    assert list(back["m"]) == ["a.weight_g", "a.weight_v"]


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"fits the model: the root has no 'other\.weight'"):
        apply(checkpoint(state_dict()), ops=[op("other.weight", 2, 2)])


def test_a_weight_of_another_shape_is_left_alone() -> None:
    ops = [op("conv.weight", 8, 3, 5, 5), op("head.weight", 7, 4)]
    report = apply(checkpoint(state_dict()), ops=ops).report
    assert reasons(report) == {"conv.weight": "has shape (8, 3, 3, 3), but (8, 3, 5, 5) in the model"}


def test_ops_let_fold_take_any_name() -> None:
    content = {"proj_g": torch.ones(2, 1), "proj_v": torch.ones(2, 3)}
    with pytest.raises(NothingToConvertError):
        fold(checkpoint(content))
    assert list(fold(checkpoint(content), ops=[op("proj", 2, 3)]).checkpoint.content) == ["proj"]


# what a fold must know


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
    applied = apply(checkpoint({"a.weight": torch.randn(3, 3)})).checkpoint
    bare = fold(checkpoint(applied.content))
    assert bare.report.notes == ("the file does not record the options of weight_norm; folded with p=2.0",)
    explicit = fold(checkpoint(applied.content), scheme=WeightNorm(p=1.0))
    assert explicit.report.notes == ()
    assert not bits_equal(explicit.checkpoint.content["a.weight"], bare.checkpoint.content["a.weight"])


def test_a_dim_that_the_parts_do_not_show_is_asked_for() -> None:
    source = checkpoint({"a.weight": torch.randn(3, 3)})
    bare = checkpoint(apply(source, "unit_norm", dim=1).checkpoint.content)
    with pytest.raises(NothingToConvertError, match="do not show which dim was kept"):
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


def test_stale_optimizer_state_is_pointed_out() -> None:
    net = Net()
    content = {"model": net.state_dict(), "optimizer": torch.optim.Adam(net.parameters()).state_dict()}
    (note,) = apply(checkpoint(content)).report.notes
    assert "optimizer state in 'optimizer'" in note


# torch's own weight norm as the oracle


def twins(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """A plain network, and the same under torch's hook-based weight norm."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Flatten(), nn.Linear(40, 5)).to(dtype)
    torch.manual_seed(0)
    hooked = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Flatten(), nn.Linear(40, 5)).to(dtype)
    for index in (0, 1, 3):
        nn.utils.weight_norm(hooked[index])
    return plain, hooked


@pytest.mark.parametrize("api", ["hooks", "parametrizations"])
def test_a_converted_file_loads_into_torchs_own_weight_norm(api: str, dtype: torch.dtype) -> None:
    plain, other = twins(dtype)
    if api == "parametrizations":
        _, other = twins(dtype)[0], twins(dtype)[0]
        for index in (0, 1, 3):
            nn.utils.parametrizations.weight_norm(other[index])
    x = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    converted = apply(checkpoint(plain.state_dict())).checkpoint.content
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(converted, strict=True)
    if dtype in (torch.float32, torch.float64):
        assert bits_equal(other(x), plain(x))
    else:  # torch rounds g and the norm apart in half precision
        torch.testing.assert_close(other(x), plain(x), rtol=torch.finfo(dtype).eps * 8, atol=0.02)


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


def test_files_leave_the_garbage_collector_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("disable", "enable", "freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *args: pytest.fail("another thread could see it"))
    fold(apply(checkpoint(training_checkpoint()), "weight_norm").checkpoint)
