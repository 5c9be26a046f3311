"""Splitting weights as a reference has them, and as a file records that they were; the record is a reference too."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint, reasons
from wnconvert.checkpoint import Checkpoint, apply, apply_like, bits_equal, difference, fold, load, preset, save, verify
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.selection import Selection


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
    assert report.notes == ()
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


def test_a_reference_that_contradicts_itself_is_refused() -> None:
    weight = torch.randn(3, 3)
    sides = [apply(checkpoint({"a.weight": weight}), dim=dim).checkpoint.content for dim in (0, 1)]
    with pytest.raises(CheckpointError, match=r"treat 'a\.weight' differently"):
        apply_like(checkpoint({"a.weight": weight}), checkpoint({"x": sides[0], "y": sides[1]}))
    assert bits_equal(
        apply_like(checkpoint({"a.weight": weight}), checkpoint(sides[1])).checkpoint.content["a.weight_g"],
        sides[1]["a.weight_g"],
    )
