from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from tests.checkpoint.layouts import twins
from wnconvert.checkpoint import apply, difference, load
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.conversions import migration
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.layout import Group, Migrated
from wnconvert.checkpoint.layouts import _spectral_norm
from wnconvert.checkpoint.layouts.biggan import BigGan
from wnconvert.errors import CheckpointError, NothingToConvertError, OptionError, VerificationError
from wnconvert.report import StaleOptimizer
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection

APIS = {"hook": nn.utils, "parametrization": parametrizations}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def net(api: str) -> nn.Sequential:
    own = APIS[api]
    return nn.Sequential(
        own.weight_norm(nn.Conv1d(4, 6, 3)),
        nn.BatchNorm1d(6),
        own.weight_norm(nn.ConvTranspose1d(6, 6, 3), dim=None),
        own.spectral_norm(nn.Conv1d(6, 6, 3)),
    )


def test_all_else_in_the_file_survives_and_nothing_is_copied() -> None:
    state = net("hook").state_dict()
    content = {"epoch": 3, "model": state, 7: ["a", None], "ema": {"shadow": net("hook").state_dict()}}
    migrated = migrate(checkpoint(content), "parametrization").checkpoint.content
    assert (migrated["epoch"], migrated[7], list(migrated)) == (3, ["a", None], list(content))
    assert type(migrated["model"]) is OrderedDict
    assert migrated["model"]._metadata is state._metadata
    assert migrated["model"]["0.parametrizations.weight.original1"] is state["0.weight_v"]
    assert list(migrated["ema"]["shadow"]) == list(net("parametrization").state_dict())
    assert "0.weight_g" in state, "the input is not modified"


def test_names_under_wrappers_are_kept() -> None:
    content = {f"module.{key}": value for key, value in net("hook").state_dict().items()}
    migrated = migrate(checkpoint(content), "parametrization").checkpoint.content
    assert "module.0.parametrizations.weight.original0" in migrated


def test_ties_survive() -> None:
    state = nn.utils.weight_norm(nn.Linear(3, 4)).state_dict()
    content = {**{f"a.{key}": value for key, value in state.items()}, **{f"b.{k}": v for k, v in state.items()}}
    migrated = migrate(checkpoint(content), "parametrization").checkpoint.content
    original = "parametrizations.weight.original1"
    assert migrated[f"a.{original}"] is migrated[f"b.{original}"]


def test_a_part_can_be_migrated() -> None:
    content = net("hook").state_dict()
    conversion = migrate(checkpoint(content), "parametrization", selection=Selection(include=("0", "3")))
    assert [entry.fqn for entry in conversion.report.converted] == ["0.weight", "3.weight"]
    assert [entry.reason for entry in conversion.report.skipped] == ["not included by '0', '3'"]
    assert "2.weight_g" in conversion.checkpoint.content


def test_a_file_that_is_there_already_is_nothing_to_do() -> None:
    with pytest.raises(NothingToConvertError, match=r"already spelled as a hook \(3 weights\)"):
        migrate(checkpoint(net("hook").state_dict()), "hook")
    with pytest.raises(NothingToConvertError, match="no key looks like"):
        migrate(checkpoint(nn.Linear(2, 2).state_dict()), "hook")


def test_a_square_spectral_norm_needs_no_dim_to_be_renamed() -> None:
    state = nn.utils.spectral_norm(nn.Linear(5, 5)).state_dict()
    source = checkpoint(state)
    migrated = migrate(source, "parametrization").checkpoint
    parametrizations.spectral_norm(nn.Linear(5, 5)).load_state_dict(migrated.content, strict=True)
    assert verify(source, migrated).equal
    assert difference(state, migrate(migrated, "hook").checkpoint.content) is None


def test_what_wnconvert_recorded_with_options_that_torch_has_not_is_skipped() -> None:
    plain = checkpoint({"a.weight": torch.randn(3, 4), "b.weight": torch.randn(3, 4)})
    mixed = apply(apply(plain, WeightNorm(p=1), selection=Selection(include=("a",))).checkpoint).checkpoint
    conversion = migrate(mixed, "parametrization")
    assert [entry.fqn for entry in conversion.report.converted] == ["b.weight"]
    (skipped,) = conversion.report.skipped
    assert skipped.reason == "torch has no parametrization of weight_norm with these options"


def test_stacks_have_no_hooks() -> None:
    state = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 4))).state_dict()
    with pytest.raises(NothingToConvertError, match=r"torch has no hook of weight_norm\+spectral_norm"):
        migrate(checkpoint(state), "hook")


def test_a_key_that_is_taken_is_not_written_over() -> None:
    state = {**nn.utils.weight_norm(nn.Linear(3, 4)).state_dict(), "parametrizations.weight.original0": torch.ones(1)}
    with pytest.raises(NothingToConvertError, match=r"'parametrizations\.weight\.original0' is in the way"):
        migrate(checkpoint(state), "parametrization")


def test_a_magnitude_that_torch_cannot_hold_is_skipped() -> None:
    state = {"a.weight_g": torch.ones(1, 1), "a.weight_v": torch.ones(3, 4)}
    with pytest.raises(NothingToConvertError, match=r"torch has no weight norm with kept dims \(\)"):
        migrate(checkpoint(state), "parametrization")


def test_a_whole_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="migrate its state dict"):
        migrate(checkpoint(net("hook")), "parametrization")


@torch.no_grad()
@pytest.mark.parametrize("to", ["hook", "parametrization"])
def test_spectral_norms_from_before_1_0_get_their_vectors(to: str) -> None:
    x = torch.randn(2, 5, 7)
    module = nn.utils.spectral_norm(nn.Conv1d(5, 6, 2))
    for _ in range(3):
        module(x)
    module.eval()(x)
    old = module.state_dict()
    old["weight"] = module.weight.detach().clone()
    del old["weight_v"], old._metadata
    loaded = nn.utils.spectral_norm(nn.Conv1d(5, 6, 2)).eval()
    loaded.load_state_dict(OrderedDict(old), strict=True)
    conversion = migrate(checkpoint(old), to)
    assert conversion.report.notes == (
        "spectral norms from before PyTorch 1.0 were given the vectors that torch solves for them",
    )
    new = APIS[to].spectral_norm(nn.Conv1d(5, 6, 2)).eval()
    new.load_state_dict(conversion.checkpoint.content, strict=True)
    assert torch.equal(new(x), loaded(x))
    assert verify(checkpoint(old), conversion.checkpoint).equal


@torch.no_grad()
@pytest.mark.parametrize("to", ["hook", "parametrization"])
def test_the_wrapper_with_weight_bar_becomes_a_plain_layer_of_torch(to: str) -> None:
    def build(norm: object) -> nn.Module:
        return nn.Sequential(OrderedDict(conv=norm(nn.Conv2d(3, 4, 3)), head=nn.Conv2d(4, 2, 1)))

    x = torch.randn(2, 3, 7, 7)
    wrapped = build(twins.SpectralNormBar)
    state = OrderedDict((key, value.clone()) for key, value in wrapped.state_dict().items())
    conversion = migrate(checkpoint(state), to)
    new = build(APIS[to].spectral_norm).eval()
    new.load_state_dict(conversion.checkpoint.content, strict=True)
    assert torch.equal(new(x), wrapped(x))
    assert verify(checkpoint(state), conversion.checkpoint).equal


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("to", ["hook", "parametrization"])
def test_biggan_becomes_a_plain_layer_of_torch(to: str, dtype: torch.dtype) -> None:
    def build(conv: object) -> nn.Module:
        return nn.Sequential(OrderedDict(conv=conv(3, 4, 3), head=nn.Conv2d(4, 2, 1))).to(dtype)

    x = torch.randn(2, 3, 7, 7, dtype=dtype)
    for steps in (0, 1, 5):
        own = build(twins.BigGanConv)
        for _ in range(steps):
            own.train()(x)
        own.eval()
        state = OrderedDict((key, value.clone()) for key, value in own.state_dict().items())
        conversion = migrate(checkpoint(state), to)
        assert conversion.report.exact
        assert conversion.report.notes == (
            "BigGAN's layers make an iteration from 'u0' in each forward; its result was stored",
        )
        new = build(lambda *shape: APIS[to].spectral_norm(nn.Conv2d(*shape))).eval()
        new.load_state_dict(conversion.checkpoint.content, strict=True)
        assert torch.equal(new(x), own(x))
        assert verify(checkpoint(state), conversion.checkpoint).equal


@torch.no_grad()
def test_a_sigma_that_torch_does_not_hit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spectral_norm, "_ROUNDINGS", 1)
    sources = [checkpoint(twins.BigGanConv(3, 4, 3).state_dict()) for _ in range(8)]
    migrated = [migrate(source, "hook") for source in sources]
    compared = [verify(source, each.checkpoint) for source, each in zip(sources, migrated, strict=True)]
    assert [each.report.exact for each in migrated] == [each.equal for each in compared]
    assert not all(each.equal for each in compared)
    for one, other in zip(migrated, compared, strict=True):
        assert one.report.converted[0].max_abs_error == max(each.max_abs for each in other.compared)


@torch.no_grad()
def test_biggan_with_vectors_of_the_other_side_keeps_its_sigma() -> None:
    weight, u = torch.randn(5, 7), torch.randn(1, 7)
    state = {"l.weight": weight, "l.u0": u, "l.sv0": torch.ones(1), "l.u1": u, "l.sv1": torch.ones(1)}
    conversion = migrate(checkpoint(state), "hook")
    assert conversion.report.notes[0].endswith("; u1, sv1 of further singular values are left out")
    assert {key: tuple(t.shape) for key, t in conversion.checkpoint.content.items()} == {
        "l.weight_orig": (5, 7),
        "l.weight_u": (5,),
        "l.weight_v": (7,),
    }
    assert verify(checkpoint(state), conversion.checkpoint).equal


@pytest.mark.parametrize("to", ["hook", "parametrization"])
def test_weight_standardization_has_no_equal_in_torch(to: str) -> None:
    aws = twins.ConvAws(3, 4, 3).state_dict()
    with pytest.raises(NothingToConvertError, match=f"no weight standardization, and so no {to} of mmcv's ConvAWS2d"):
        migrate(checkpoint(aws), to)
    gain = {"c.weight": torch.ones(4, 3, 3, 3), "c.gain": torch.ones(4, 1, 1, 1)}
    with pytest.raises(
        NothingToConvertError, match=f"no weight standardization, and so no {to} of a weight with a gain"
    ):
        migrate(checkpoint(gain), to)
    with pytest.raises(NothingToConvertError, match=r"leaves no trace \(fold it with --preset\)"):
        migrate(checkpoint({"stem.conv1.weight": torch.ones(4, 3, 3, 3)}), to)


@torch.no_grad()
def test_optimizer_state_of_biggan_is_left_out_for_its_parameters_change_their_order() -> None:
    own = twins.BigGanConv(3, 4, 3)
    optimizer = torch.optim.Adam(own.parameters())
    for parameter in own.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    migrated = migrate(checkpoint({"model": own.state_dict(), "optim": optimizer.state_dict()}), "hook")
    assert list(migrated.checkpoint.content) == ["model"]
    assert [name for name, _ in nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)).named_parameters()] == [
        "bias",
        "weight_orig",
    ]


@torch.no_grad()
def test_optimizers_keep_their_state_as_long_as_parameters_keep_their_order() -> None:
    module = nn.Sequential(OrderedDict(conv=nn.utils.weight_norm(nn.Conv1d(3, 4, 2)), head=nn.Linear(4, 2)))
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    content = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    migrated = migrate(checkpoint(content), "parametrization")
    assert migrated.report.notes == ()
    assert difference(content["optimizer"], migrated.checkpoint.content["optimizer"]) is None
    twin = nn.Sequential(OrderedDict(conv=parametrizations.weight_norm(nn.Conv1d(3, 4, 2)), head=nn.Linear(4, 2)))
    shapes = [tuple(parameter.shape) for parameter in twin.parameters()]
    state = migrated.checkpoint.content["optimizer"]["state"]
    assert [tuple(state[index]["exp_avg"].shape) for index in range(len(shapes))] == shapes


def test_optimizer_state_that_would_be_wrong_is_left_out() -> None:
    outer = nn.Linear(3, 4)
    outer.inner = nn.Linear(4, 4)
    nn.utils.weight_norm(outer)
    optimizer = torch.optim.Adam(outer.parameters())
    for parameter in outer.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    content = {"model": outer.state_dict(), "optim": optimizer.state_dict()}
    migrated = migrate(checkpoint(content), "parametrization")
    assert list(migrated.checkpoint.content) == ["model"]
    assert migrated.report.optimizers == (StaleOptimizer("optim", "dropped"),)
    kept = migrate(checkpoint(content), "parametrization", optimizer="keep")
    assert list(kept.checkpoint.content) == ["model", "optim"]


def test_one_of_several_state_dicts_can_be_migrated() -> None:
    content = {"model": {"g": net("hook").state_dict(), "d": net("hook").state_dict()}}
    migrated = migrate(checkpoint(content), "parametrization", within=["model.d"]).checkpoint.content["model"]
    assert list(migrated["g"]) == list(net("hook").state_dict())
    assert list(migrated["d"]) == list(net("parametrization").state_dict())
    with pytest.raises(OptionError, match="there is no state dict at 'd'"):
        migrate(checkpoint(content), "parametrization", within=["d"])


def test_weights_that_would_change_unsaid_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "change", lambda *_: 0.0)
    right = BigGan.migrated

    def wrong(self: BigGan, group: Group, parts: Mapping[str, Tensor]) -> Migrated | None:
        moved = right(self, group, parts)
        return moved and moved._replace(values={**moved.values, "u": torch.ones(4)})

    monkeypatch.setattr(BigGan, "migrated", wrong)
    with pytest.raises(VerificationError, match=r"the migrated weights are not those of the input: 'weight': differs"):
        migrate(checkpoint(twins.BigGanConv(3, 4, 3).state_dict()), "hook")


def test_what_a_folder_cannot_take_along_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"")
    torch.save(nn.utils.weight_norm(nn.Linear(3, 4)).state_dict(), folder / "pytorch_model.bin")
    report = migrate(load(folder), "parametrization").report
    assert report.optimizers == (StaleOptimizer("optimizer.pt", "dropped"),)
