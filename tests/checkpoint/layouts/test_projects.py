"""The checkpoints that people have, each folded, applied and migrated to what the live modules compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.twins import Api, signal
from wnconvert.checkpoint import Checkpoint, apply, difference, fold
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.comparing.effective import effective
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.conversions.reference import apply_like
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.errors import VerificationError

#: name -> twin, where in its file the state dict is, and the number of its channels.
PROJECTS: dict[str, tuple[type[nn.Module], Callable[[Any], Any], int]] = {
    "HiFi-GAN": (twins.HifiGan, lambda state: {"generator": state}, 8),
    "HiFi-GAN MSD": (
        twins.Discriminators,
        lambda state: {"mpd": {}, "msd": state, "optim_d": {"state": {}, "param_groups": []}, "steps": 3, "epoch": 1},
        1,
    ),
    "BigVGAN": (twins.BigVgan, lambda state: {"generator": state}, 8),
    "WaveGlow": (twins.WaveGlow, lambda state: {"model": state, "iteration": 3, "learning_rate": 1e-4}, 4),
    "EnCodec": (twins.Encodec, lambda state: state, 8),
    "DAC": (twins.Dac, lambda state: {"state_dict": state, "metadata": {"kwargs": {"rates": [2, 4]}}}, 8),
    "Vocos": (twins.Vocos, lambda state: {"state_dict": state, "pytorch-lightning_version": "2.0"}, 8),
    "VITS": (twins.Vits, lambda state: {"model": state, "iteration": 3, "optimizer": None}, 8),
    "RVC": (twins.Vits, lambda state: {"weight": state, "config": [1, 2], "info": "", "sr": "40k", "f0": 1}, 8),
    "Parallel WaveGAN": (twins.HifiGan, lambda state: {"model": {"generator": state}, "steps": 3}, 8),
    "Kokoro": (twins.HifiGan, lambda state: {"decoder": {f"module.{key}": value for key, value in state.items()}}, 8),
    "fairseq wav2vec2": (twins.PositionalConvolution, lambda state: {"args": None, "cfg": {}, "model": state}, 8),
    "DINO v1": (twins.DinoHead, lambda state: {"student": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}, 8),
    "DINO v2": (twins.DinoHead, lambda state: {"teacher": {f"dino_head.{k}": v for k, v in state.items()}}, 8),
    "other names": (twins.Recurrent, lambda state: state, 8),
}


def build(kind: type[nn.Module], api: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind(Api(api))


def trained(name: str, api: str = "hook", dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Checkpoint, Tensor]:
    """A twin as if after some steps, its checkpoint and an input."""
    kind, wrap, channels = PROJECTS[name]
    model = build(kind, api)
    x = signal(channels)
    with torch.no_grad():
        for _ in range(3 if kind is twins.Discriminators else 0):
            model(x)  # spectral norm follows the singular vectors
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    model = model.to(dtype).eval()
    return model, Checkpoint(wrap(model.state_dict()), "torch_zip"), x.to(dtype)


def state_in(content: Any, like: nn.Module) -> dict[str, Tensor]:
    """The state dict of a twin in a file of its project, without prefixes."""
    while not any(isinstance(value, Tensor) for value in content.values()):
        content = next(value for value in content.values() if isinstance(value, dict) and value)
    keys = list(content)
    first = next(iter(like.state_dict())).partition(".")[0]
    prefixes = {key[: len(key) - len(key.removeprefix(prefix))] for prefix in ("module.", "dino_head.") for key in keys}
    prefix = max(prefixes, key=len) if not any(key.startswith(f"{first}.") for key in keys) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def folded(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content with every composed weight in the place of its parts, under names without wrappers."""
    return {entry.name.removeprefix("dino_head."): entry.value() for entry in effective(checkpoint, Reading())}


@torch.no_grad()
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", PROJECTS)
def test_the_folded_file_is_the_plain_model(name: str, api: str) -> None:
    model, checkpoint, x = trained(name, api)
    plain = build(PROJECTS[name][0], "plain", seed=1).eval()
    for state in (folded(checkpoint), state_in(fold(checkpoint).checkpoint.content, plain)):
        plain.load_state_dict(state, strict=True)
        assert torch.equal(plain(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", PROJECTS)
def test_what_was_folded_is_split_again_and_loads_strictly(name: str, api: str) -> None:
    model, checkpoint, x = trained(name, api)
    kind, wrap, _ = PROJECTS[name]
    if kind is twins.Discriminators:  # the vectors of its spectral norms follow a weight that does not change any more
        for _ in range(200):
            model.train()(x)
        checkpoint = Checkpoint(wrap(model.eval().state_dict()), "torch_zip")
    again, report = apply(fold(checkpoint).checkpoint)
    assert report.exact
    twin = build(kind, api, seed=1).eval()
    twin.load_state_dict(state_in(again.content, twin), strict=True)
    assert torch.equal(twin(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", ["HiFi-GAN", "HiFi-GAN MSD", "RVC", "fairseq wav2vec2", "DINO v1"])
def test_the_folded_file_has_the_bits_of_the_layers_in_every_dtype(name: str, api: str, dtype: torch.dtype) -> None:
    model, checkpoint, _ = trained(name, api, dtype)
    weights = folded(checkpoint)
    for fqn, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)):
            assert torch.equal(weights[f"{fqn}.weight"], module.weight), fqn


@torch.no_grad()
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", PROJECTS)
def test_the_migrated_file_loads_strictly_into_the_other_interface_and_back_is_the_same_file(
    name: str, api: str
) -> None:
    model, checkpoint, x = trained(name, api)
    other = "parametrization" if api == "hook" else "hook"
    migrated = migrate(checkpoint, other).checkpoint
    twin = build(PROJECTS[name][0], other, seed=1).eval()
    state = state_in(migrated.content, twin)
    twin.load_state_dict(state, strict=True)
    assert torch.equal(twin(x), model(x))
    assert verify(checkpoint, migrated).equal
    assert difference(checkpoint.content, migrate(migrated, api).checkpoint.content) is None


@torch.no_grad()
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", [name for name in PROJECTS if name != "HiFi-GAN MSD"])
def test_plain_weights_are_split_like_a_reference_and_load_strictly(name: str, api: str) -> None:
    kind, wrap, channels = PROJECTS[name]
    _, reference, _ = trained(name, api)
    plain = build(kind, "plain", seed=2).eval()
    applied = apply_like(Checkpoint(wrap(plain.state_dict()), "torch_zip"), reference)
    model = build(kind, api, seed=1).eval()
    model.load_state_dict(state_in(applied.checkpoint.content, model), strict=True)
    x = signal(channels)
    assert torch.equal(model(x), plain(x))
    assert applied.report.skipped == ()


@torch.no_grad()
def test_spectral_norm_is_never_put_on_weights_that_it_would_change() -> None:
    kind, wrap, _ = PROJECTS["HiFi-GAN MSD"]
    _, reference, _ = trained("HiFi-GAN MSD")
    plain = build(kind, "plain", seed=2)  # never divided by its largest singular value, which so is not 1
    with pytest.raises(VerificationError, match=r"discriminators\.0\.convs\.0\.weight' cannot come back"):
        apply_like(Checkpoint(wrap(plain.state_dict()), "torch_zip"), reference)


def test_the_two_kinds_of_weight_v_in_one_dict_are_told_apart() -> None:
    _, checkpoint, _ = trained("HiFi-GAN MSD")
    found = {entry.name: entry.spelled for entry in effective(checkpoint, Reading()) if entry.spelled != "plain"}
    assert set(found.values()) == {"spectral_norm_hook", "weight_norm_hook"}
    assert all(("discriminators.0" in name) == (layout == "spectral_norm_hook") for name, layout in found.items())
