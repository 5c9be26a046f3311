"""Splitting weights as a reference has them, and as a file records that they were; the record is a reference too."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint import Checkpoint, apply, apply_like, bits_equal, difference, fold, load, preset, save, verify
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.report import Report
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection


def reasons(report: Report) -> dict[str, str]:
    return {entry.fqn: entry.reason for entry in report.skipped}


def gan(api: str) -> nn.ModuleDict:
    """Two nets under torch's weight norm, each with a layer that is not."""
    torch.manual_seed(0)
    norm = nn.utils.weight_norm if api == "hook" else parametrizations.weight_norm
    net = nn.Sequential(norm(nn.Conv1d(3, 4, 3), dim=2), nn.Conv1d(4, 4, 3), norm(nn.ConvTranspose1d(4, 5, 3), dim=1))
    critic = nn.Sequential(nn.Linear(5, 5), norm(nn.Linear(5, 4), dim=None))
    return nn.ModuleDict({"net": net, "critic": critic})


@pytest.mark.parametrize("format_name", ["torch_zip", "torch_legacy", "npz", "safetensors", "torch_sharded"])
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_was_folded_is_split_again_exactly(tmp_path, format_name, api, dtype):  # type: ignore[no-untyped-def]
    model = gan(api).to(dtype)
    source = Checkpoint(dict(model.state_dict()), format_name)
    save(fold(source).checkpoint, tmp_path / "folded", source=tmp_path / "none")
    once = load(tmp_path / "folded")
    applied, report = apply(once)
    assert report.exact
    assert report.skipped == ()
    assert [entry.fqn for entry in report.converted] == sorted(
        ["net.0.weight", "net.2.weight", "critic.1.weight"], key=list(once.content).index
    )
    assert {key for entry in report.converted for key in entry.keys} <= applied.content.keys()
    (note,) = report.notes
    assert note.endswith("(weight_norm); to choose otherwise, give --scheme")
    fresh = gan(api).to(dtype)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(applied.content, strict=True)
    assert {key: t.shape for key, t in applied.content.items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert verify(applied, once).equal
    back = fold(applied).checkpoint
    assert difference(once.content, back.content, ordered=False) is None
    assert back.metadata == once.metadata


def test_only_the_recorded_weights_of_the_recorded_place_are_split() -> None:
    plain, normed = nn.Linear(3, 3), nn.utils.weight_norm(nn.Linear(3, 3))
    content = {"a.weight": torch.randn(3, 3), "x": {"a.weight": torch.randn(3, 3)}, "m": {"plain": plain.state_dict()}}
    content["m"]["normed"] = normed.state_dict()  # type: ignore[index]
    content["y"] = {"a.weight_g": torch.rand(3, 1), "a.weight_v": torch.randn(3, 3)}
    once = fold(checkpoint(content)).checkpoint
    assert [entry.fqn for entry in apply(once).report.converted] == ["m.normed.weight", "y.a.weight"]
    assert [entry.fqn for entry in apply(once, within=["m"]).report.converted] == ["m.normed.weight"]
    assert apply(once, within=["m"]).report.skipped == ()
    with pytest.raises(NothingToConvertError, match="nothing folded is recorded there, give --scheme"):
        apply(once, within=["x"])


def test_the_user_is_asked_first_and_told_of_the_record() -> None:
    once = fold(checkpoint(gan("hook").state_dict())).checkpoint
    assert len(apply(once, "weight_norm").report.converted) == 5
    assert apply(once, "weight_norm").report.notes == ()
    for choice in ({"selection": Selection(include=("net.*",))}, {"dim": 1}):
        report = apply(once, **choice).report  # type: ignore[arg-type]
        assert report.converted[0].scheme == "weight_norm"
        assert report.notes == (
            "the file records what was folded; choose no weights and no dim to have exactly that back",
        )


def test_what_cannot_be_applied_again_is_reported() -> None:
    torch.manual_seed(0)
    stacked = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(5, 4)))
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), stacked)
    once = fold(checkpoint(net.state_dict())).checkpoint
    report = apply(once).report
    assert [entry.fqn for entry in report.converted] == ["0.weight"]
    assert reasons(report) == {
        "1.weight": "was weight_norm+spectral_norm in the layout 'parametrization', which cannot be applied"
    }
    content = dict(once.content)
    del content["0.weight"]
    gone = Checkpoint({**content, "2.weight": torch.randn(3, 3)}, "torch_zip", once.metadata)
    with pytest.raises(NothingToConvertError, match="records it as folded, but does not have it"):
        apply(gone)
    bit = fold(checkpoint({"stem.conv.weight": torch.randn(4, 3, 3, 3)}), presets=[preset("timm-bit")]).checkpoint
    report = apply(bit).report
    assert [entry.scheme for entry in report.converted] == ["weight_norm"]
    assert report.notes == ("what the file records as folded cannot be applied again; this is weight_norm instead",)


def test_what_is_split_already_is_reported_and_no_other_weight_taken_for_it() -> None:
    applied = apply(fold(checkpoint(gan("hook").state_dict())).checkpoint).checkpoint
    with pytest.raises(NothingToConvertError, match=r"already under weight_norm \(3 weights\); .* give --scheme"):
        apply(applied)


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


# a reference


def test_a_folded_file_is_a_reference_too() -> None:
    once = fold(Checkpoint({"ema": gan("parametrization").state_dict()}, "torch_zip")).checkpoint
    torch.manual_seed(7)
    plain = OrderedDict((name, torch.randn_like(tensor)) for name, tensor in once.content["ema"].items())
    applied, report = apply_like(checkpoint({"module": plain}), once)
    assert report.skipped == ()
    gan("parametrization").load_state_dict(applied.content["module"], strict=True)
    for name in ("net.0", "net.2", "critic.1"):
        fresh = gan("parametrization")
        fresh.load_state_dict(applied.content["module"])
        assert torch.equal(fresh.get_submodule(name).weight, plain[f"{name}.weight"])


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


def test_every_weight_of_the_reference_is_in_the_report() -> None:
    torch.manual_seed(0)
    spectral = nn.utils.spectral_norm(nn.Linear(4, 4))  # never run: its dim is open
    names = ("done", "split", "other", "open", "gone")
    reference: dict[str, Tensor] = {}
    for name in names:
        layer = spectral if name == "open" else nn.utils.weight_norm(nn.Linear(4, 4))
        reference |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
    target: dict[str, Tensor] = {f"{name}.weight": torch.randn(4, 4) for name in ("done", "open", "extra")}
    target |= {f"split.weight_{part}": reference[f"split.weight_{part}"] for part in "gv"}
    target |= {"other.weight_scale": torch.ones(4, 1), "other.weight_raw": torch.ones(4, 4)}
    report = apply_like(checkpoint({"net": target}), checkpoint(reference)).report
    assert [entry.fqn for entry in report.converted] == ["net.done.weight"]
    found = reasons(report)
    assert found.keys() == {"net.split.weight", "open.weight", "gone.weight", "net.other.weight"}
    assert found["net.split.weight"] == "already under weight_norm"
    assert found["net.other.weight"] == "under weight_standardization; fold that first"
    assert found["gone.weight"] == "the reference has it, but this file has not"
    assert found["open.weight"].startswith("the reference: ")
    assert [entry.already for entry in report.skipped if entry.fqn == "net.split.weight"] == [True]


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


def test_a_reference_that_contradicts_itself_is_refused() -> None:
    weight = torch.randn(3, 3)
    sides = [apply(checkpoint({"a.weight": weight}), dim=dim).checkpoint.content for dim in (0, 1)]
    with pytest.raises(CheckpointError, match=r"treat 'a\.weight' differently"):
        apply_like(checkpoint({"a.weight": weight}), checkpoint({"x": sides[0], "y": sides[1]}))
    assert bits_equal(
        apply_like(checkpoint({"a.weight": weight}), checkpoint(sides[1])).checkpoint.content["a.weight_g"],
        sides[1]["a.weight_g"],
    )


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
    source = checkpoint(dict(model.state_dict()))
    folded = fold(source).checkpoint
    applied, report = apply_like(folded, source) if like else apply(folded)
    errors = {entry.fqn: entry.max_abs_error for entry in report.converted}
    assert errors["conv.weight"] == errors["up.weight"] == 0
    assert errors["far.weight"] > 0  # its vectors were never run, and the scheme divides by what they are now
    fresh = trained(api)
    fresh.load_state_dict(applied.content)
    for name in ("conv", "up"):
        x = torch.randn(2, 4, 8)
        assert torch.equal(fresh[name].eval()(x), model[name].eval()(x))
        assert bits_equal(fold(applied).checkpoint.content[f"{name}.weight"], folded.content[f"{name}.weight"])
