"""Files of several models, split again like others: HiFi-GAN's ``do_*``, with the same names in both discriminators."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.conftest import checkpoint, reasons
from tests.checkpoint.layouts import twins
from wnconvert.checkpoint import Checkpoint, apply_like, bits_equal, fold
from wnconvert.errors import CheckpointError, NothingToConvertError, OptionError, VerificationError

APIS = ("hook", "parametrization")
KINDS: dict[str, Callable[[twins.Api], nn.Module]] = {
    "mpd": twins.PeriodDiscriminators,
    "msd": twins.Discriminators,
    "generator": twins.HifiGan,
}


def models(api: str, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: kind(twins.Api(api)).to(dtype) for name, kind in KINDS.items()}


def signal(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return twins.signal(8 if name == "generator" else 1, dtype=dtype)


def trained(api: str, dtype: torch.dtype = torch.float32, steps: int = 20) -> dict[str, Any]:
    """What HiFi-GAN's train.py saves as ``do_*`` and ``g_*`` in one: models and optimizers after some steps."""
    found = models(api, dtype)
    mpd, msd, generator = (found[name] for name in KINDS)
    optim_g = torch.optim.AdamW(generator.parameters(), 2e-4, betas=(0.8, 0.99))
    optim_d = torch.optim.AdamW(chain(msd.parameters(), mpd.parameters()), 2e-4, betas=(0.8, 0.99))
    for _ in range(steps):
        for optimizer, names in ((optim_d, ("mpd", "msd")), (optim_g, ("generator",))):
            optimizer.zero_grad()
            sum(found[name](signal(name, dtype)).square().mean() for name in names).backward()
            optimizer.step()
    states = {name: model.state_dict() for name, model in found.items()}
    optimizers = {"optim_g": optim_g.state_dict(), "optim_d": optim_d.state_dict()}
    return {**states, **optimizers, "steps": steps, "epoch": 1}


def outputs(state: dict[str, Any], api: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What the models give, in evaluation, once they have strictly loaded a file."""
    found = models(api, dtype)
    for name, model in found.items():
        model.load_state_dict(state[name], strict=True)
    with torch.no_grad():
        return {name: model.eval()(signal(name, dtype)) for name, model in found.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("api", APIS)
def test_each_model_is_split_like_that_of_its_place(api: str, dtype: torch.dtype) -> None:
    reference = checkpoint(trained(api, dtype))
    folded = Checkpoint(fold(reference).checkpoint.content, "torch_zip")
    backwards = {name: folded.content[name] for name in reversed(folded.content)}
    plain = outputs(folded.content, "plain", dtype)
    for content in (folded.content, backwards):
        applied, report = apply_like(checkpoint(content), reference)
        assert report.exact
        assert report.skipped == ()
        assert [note for note in report.notes if "optimizer" not in note] == []
        found = outputs(applied.content, api, dtype)
        for name in KINDS:
            assert torch.equal(found[name], plain[name])
            assert applied.content[name].keys() == reference.content[name].keys()
        spectral = {key: t for key, t in reference.content["msd"].items() if key.startswith("discriminators.0.")}
        assert len(spectral) == 12
        for key, tensor in spectral.items():
            assert bits_equal(applied.content["msd"][key], tensor), key


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("api", APIS)
def test_what_was_trained_since_keeps_its_function_and_the_vectors_their_directions(
    api: str, dtype: torch.dtype
) -> None:
    reference = checkpoint(trained(api))
    content = {"msd": fold(reference).checkpoint.content["msd"]}
    model = twins.Discriminators(twins.Api("plain"))
    model.load_state_dict(content["msd"])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(signal("msd")).square().mean().backward()
        optimizer.step()
    model.to(dtype)
    with torch.no_grad():
        expected = model.eval()(signal("msd", dtype))
    applied, report = apply_like(checkpoint({"msd": model.state_dict()}), reference)
    assert report.exact
    again = twins.Discriminators(twins.Api(api)).to(dtype)
    again.load_state_dict(applied.content["msd"], strict=True)
    spectral = expected.shape[1] // 2  # torch's weight norm, which the others have, rounds more in half precision
    with torch.no_grad():
        assert torch.equal(again.eval()(signal("msd", dtype))[:, :spectral], expected[:, :spectral])
    vectors = [key for key in applied.content["msd"] if key.endswith(("_u", "_v")) and "discriminators.0." in key]
    assert len(vectors) == 6
    for key in vectors:
        was, now = reference.content["msd"][key], applied.content["msd"][key]
        cosine = torch.nn.functional.cosine_similarity(was.double(), now.double(), dim=0)
        assert cosine > 1 - 1e-5  # the roundings of float16
        assert not key.endswith("v") or len(now) == 24 or bits_equal(now, was.to(dtype))


@pytest.mark.parametrize("api", APIS)
def test_a_weight_that_is_no_folded_one_is_refused(api: str) -> None:
    reference = checkpoint(trained(api))
    content = fold(reference).checkpoint.content
    content["msd"]["discriminators.0.convs.1.weight"] = content["msd"]["discriminators.0.convs.1.weight"] * 3
    with pytest.raises(
        VerificationError, match=r"'msd\.discriminators\.0\.convs\.1\.weight' cannot come back .*--only"
    ):
        apply_like(checkpoint(content), reference)
    report = apply_like(checkpoint(content), reference, within=["mpd", "generator"]).report
    assert report.exact
    assert {entry.fqn.partition(".")[0] for entry in report.converted} == {"mpd", "generator"}
    assert report.skipped == ()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_a_bare_state_dict_is_found_in_the_reference_by_its_names(name: str, wrapper: str) -> None:
    reference = checkpoint(trained("hook"))
    folded = fold(reference).checkpoint.content
    bare = {wrapper + key: tensor for key, tensor in folded[name].items()}
    applied, report = apply_like(checkpoint(bare), reference, within=[name])
    assert report.skipped == ()
    whole, more = apply_like(checkpoint(bare), reference)
    assert len(more.converted) == len(report.converted)
    assert {entry.fqn.partition(".")[0] for entry in more.skipped} == KINDS.keys() - {name}
    for each in (applied, whole):
        found = {key.removeprefix(wrapper): tensor for key, tensor in each.content.items()}
        expected = outputs({**folded, name: folded[name]}, "plain")[name]
        assert torch.equal(outputs({**reference.content, name: found}, "hook")[name], expected)
    # and the other way round: a reference without the other models
    alone = checkpoint(reference.content[name])
    applied, report = apply_like(checkpoint({"nets": folded}), alone, within=[f"nets.{name}"])
    assert {entry.fqn.partition(".")[2].partition(".")[0] for entry in report.converted} == {name}
    assert report.skipped == ()
    assert applied.content["nets"][name].keys() == reference.content[name].keys()


def test_places_must_be_in_one_of_the_files() -> None:
    reference = checkpoint(trained("hook", steps=1))
    folded = checkpoint(fold(reference).checkpoint.content)
    with pytest.raises(OptionError, match=r"no state dict at 'mrd' \(there are: "):
        apply_like(folded, reference, within=["msd", "mrd"])
    with pytest.raises(NothingToConvertError):
        apply_like(checkpoint(folded.content["generator"]), reference, within=["mpd"])


def test_one_that_may_be_several_is_refused_where_these_differ() -> None:
    norm, plain = nn.utils.weight_norm(nn.Linear(3, 3), dim=1), nn.Linear(3, 3)
    reference = {"net_a": dict(norm.state_dict()), "net_b": dict(nn.utils.weight_norm(nn.Linear(3, 3)).state_dict())}
    bare = checkpoint(dict(plain.state_dict()))
    with pytest.raises(CheckpointError, match=r"^the root may be net_a or net_b of the reference, which .*\(--only\)$"):
        apply_like(bare, checkpoint(reference))
    applied = apply_like(bare, checkpoint(reference), within=["net_a"]).checkpoint
    assert applied.content["weight_g"].shape == (1, 3)
    same = {**reference, "net_b": reference["net_a"] | {"bias": torch.ones(3)}}
    assert apply_like(bare, checkpoint(same)).report.skipped == ()


def test_spectral_norms_with_different_vectors_are_different_too() -> None:
    torch.manual_seed(0)
    layers = [nn.utils.spectral_norm(nn.Linear(3, 4)) for _ in range(2)]
    for layer in layers:
        layer(torch.randn(2, 3))
    reference = {f"net_{index}": dict(layer.state_dict()) for index, layer in enumerate(layers)}
    bare = checkpoint(dict(fold(checkpoint(reference["net_0"])).checkpoint.content))
    with pytest.raises(CheckpointError, match="the root may be net_0 or net_1"):
        apply_like(bare, checkpoint(reference))
    applied = apply_like(bare, checkpoint(reference), within=["net_0"]).checkpoint
    assert all(bits_equal(applied.content[key], tensor) for key, tensor in reference["net_0"].items())


def test_a_moving_average_is_split_like_its_model_and_another_model_is_left_alone() -> None:
    reference = trained("hook", steps=1)
    folded = fold(checkpoint(reference)).checkpoint.content
    file = {"model": folded["generator"], "ema": dict(folded["generator"]), "d": {"conv_post.weight": torch.ones(2, 2)}}
    applied, report = apply_like(checkpoint(file), checkpoint({"model": reference["generator"]}))
    assert {entry.fqn.partition(".")[0] for entry in report.converted} == {"model", "ema"}
    assert applied.content["ema"]["conv_pre.weight_v"] is applied.content["model"]["conv_pre.weight_v"]  # still tied
    assert applied.content["ema"].keys() == applied.content["model"].keys() == reference["generator"].keys()
    assert report.notes == ("left as it is, for the reference has none like it: d",)
    both = {"model": reference["generator"], "ema": {key: t.clone() for key, t in reference["generator"].items()}}
    report = apply_like(checkpoint({"model": folded["generator"]}), checkpoint(both)).report
    assert reasons(report) == {}
    assert report.notes == ("only in the reference, where it is like another: ema",)
