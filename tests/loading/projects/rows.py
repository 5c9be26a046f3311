"""The projects: how each builds its model and saves it, at small configurations with random weights."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import nn

from tests.loading.projects import written
from tests.zoo import transformers_models

#: positional and keyword arguments of a forward.
Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
#: the last two of the lines that load any folded file
FOLD, LOAD = "model, _ = wnconvert.fold(model)", "checkpoint.load_into(model, path)"

#: families that are built without weight norm; a method applies it, to train
BUILT_PLAIN = ("dac", "mimi", "univnet", "speecht5")


@dataclass(frozen=True)
class Row:
    """One project.

    Attributes:
        title: the project, and its class.
        package: what must be installed, or None where the modules are written in these tests.
        make: returns the model as the project builds it, with normalization, and inputs.
        lines: load the folded file at ``path``; they leave ``model``.
        names: what the lines use besides, by name, given the model.
        save: what the project saves, given the state dict; None where it has ``save_pretrained``.
        place: where in its file the state dict is.
        preset: what has to be named to fold it, as the command line takes it.
        merged: returns the model with the bits that the folded file has, given one that `make` returned; None where
            those are its own. What needs it has its adapter beside its file.
    """

    title: str
    package: str | None
    make: Callable[[], tuple[nn.Module, Inputs]]
    lines: tuple[str, ...]
    names: Callable[[nn.Module], dict[str, Any]]
    save: Callable[[dict[str, Any]], Any] | None = dict
    place: tuple[str, ...] = ()
    preset: str = ""
    merged: Callable[[nn.Module], nn.Module] | None = None

    def __str__(self) -> str:
        return self.title

    def absence(self) -> str:
        """Return why the project cannot be tried here, or nothing."""
        try:
            self.make()
        except ImportError as error:
            return str(error)
        return ""

    def write(self, model: nn.Module, path: Path) -> None:
        """Save a model as the project does."""
        if self.merged is not None:
            model.save_pretrained(path.with_name("adapter"))  # type: ignore[operator]
            torch.save(model.unload().state_dict(), path)  # type: ignore[operator]
        elif self.save is None:
            model.save_pretrained(path)  # type: ignore[operator]
        else:
            torch.save(self.save(dict(model.state_dict())), path)


def _transformers(family: str) -> Row:
    make = transformers_models.FAMILIES[family]
    name = make.keywords["name"]
    built = (f"model = {name}({name}.config_class.from_pretrained(path))", FOLD, LOAD)
    return Row(
        f"transformers `{name}`",
        "transformers",
        partial(transformers_models.normalized, make),
        (f"model = {name}.from_pretrained(path)",) if family in BUILT_PLAIN else built,
        lambda model: {name: type(model)},
        None,
    )


def _built(
    title: str,
    package: str | None,
    make: Callable[[], tuple[nn.Module, Inputs]],
    save: Callable[[dict[str, Any]], Any],
    place: tuple[str, ...] = (),
    only: str = "",
) -> Row:
    """A project whose class takes its configuration."""
    name = title.rpartition("`")[0].rpartition("`")[2]
    load = LOAD.replace(")", f", only={only!r})") if only else LOAD
    return Row(
        title, package, make, (f"model = {name}(config)", FOLD, load), lambda _: {name: _again(make)}, save, place
    )


def _timm(name: str, preset: str, **options: Any) -> Row:
    """A model of timm that standardizes the weights of its convolutions, cut to a few layers."""

    def make() -> tuple[nn.Module, Inputs]:
        timm = importlib.import_module("timm")
        return timm.create_model(name, num_classes=3, **options), ((torch.randn(1, 3, 64, 64),), {})

    def names(_: nn.Module) -> dict[str, Any]:
        return {"timm": SimpleNamespace(create_model=lambda name: make()[0])}

    lines = (f"model = timm.create_model({name!r})", FOLD, LOAD)
    return Row(f"timm `{name}`, `--preset {preset}`", "timm", make, lines, names, preset=preset)


def _torchvision(name: str, norm: Callable[[nn.Module], nn.Module], how: str) -> Row:
    """A model of torchvision, whose convolutions a user has normalized."""

    def build() -> nn.Module:
        model: nn.Module = getattr(importlib.import_module("torchvision.models"), name)(num_classes=3)
        return model

    def make() -> tuple[nn.Module, Inputs]:
        model = build()
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d):
                norm(module)
        return model, ((torch.randn(1, 3, 64, 64),), {})

    lines = (f"model = {name}(num_classes=3)", LOAD)
    return Row(f"torchvision `{name}` with {how}", "torchvision", make, lines, lambda _: {name: lambda **_: build()})


def _peft() -> Row:
    """A model with an adapter of DoRA, which is folded into its base."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def make() -> tuple[nn.Module, Inputs]:
        peft = importlib.import_module("peft")
        config = peft.LoraConfig(r=2, target_modules=["1", "3"], use_dora=True, init_lora_weights=False)
        return peft.get_peft_model(build(), config), ((torch.randint(11, (2, 5)),), {})

    def merged(model: nn.Module) -> nn.Module:
        result: nn.Module = copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]
        return result

    lines = ("model = Base(config)", LOAD)
    return Row(
        "peft `LoraConfig(use_dora=True)`, adapter folder over a base",
        *("peft", make, lines, lambda _: {"Base": lambda config: build()}),
        merged=merged,
    )


def _again(make: Callable[[], tuple[nn.Module, Inputs]]) -> Callable[[Any], nn.Module]:
    """Return what builds the model anew, with other random weights."""
    return lambda config: make()[0]


def _mel(channels: int, *, frames: int = 6) -> Inputs:
    return (torch.randn(1, channels, frames),), {}


def _wave() -> Inputs:
    return (torch.randn(1, 1, 640),), {}


def _encodec() -> tuple[nn.Module, Inputs]:
    modules = importlib.import_module("encodec.modules")
    return modules.SEANetDecoder(dimension=16, n_filters=4, ratios=[4, 2]), _mel(16)


def _dac() -> tuple[nn.Module, Inputs]:
    dac = importlib.import_module("dac")
    options = {"n_codebooks": 2, "codebook_size": 16, "codebook_dim": 4}
    return dac.DAC(encoder_dim=4, encoder_rates=[2, 4], decoder_dim=32, decoder_rates=[4, 2], **options), _wave()


def _snac() -> tuple[nn.Module, Inputs]:
    snac = importlib.import_module("snac")
    coder = {"encoder_dim": 4, "encoder_rates": [2, 4], "decoder_dim": 32, "decoder_rates": [4, 2]}
    codes = {"codebook_size": 16, "codebook_dim": 4, "vq_strides": [2, 1], "attn_window_size": None}
    return snac.SNAC(**coder, **codes), _wave()


def _vocos() -> tuple[nn.Module, Inputs]:
    models = importlib.import_module("vocos.models")
    return models.VocosResNetBackbone(input_channels=8, dim=16, num_blocks=2), _mel(8)


def _bigvgan() -> tuple[nn.Module, Inputs]:
    module = importlib.import_module("bigvgan.bigvgan")
    config = {
        "num_mels": 10,
        "upsample_initial_channel": 16,
        "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4],
        "resblock": "1",
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "activation": "snakebeta",
        "snake_logscale": True,
    }
    return module.BigVGAN(module.AttrDict(config)), _mel(10)


def rows() -> Iterator[Row]:
    """Yield every project."""
    families = ("wav2vec2", "wav2vec2_ctc", "hubert", "wavlm", "encodec", "dac", "mimi", "vits", "univnet", "speecht5")
    yield from map(_transformers, families)
    yield _built("EnCodec `SEANetDecoder`", "encodec", _encodec, dict)
    yield _built("DAC `DAC`", "dac", _dac, lambda entries: {"state_dict": entries, "metadata": {}}, ("state_dict",))
    yield _built("SNAC `SNAC`", "snac", _snac, dict)
    yield _built(
        "Vocos `VocosResNetBackbone` (training checkpoint)",
        "vocos",
        _vocos,
        lambda entries: {"state_dict": {f"backbone.{key}": value for key, value in entries.items()}},
        ("state_dict", "backbone"),
        "state_dict.backbone",
    )
    yield _built("BigVGAN `BigVGAN`", "bigvgan", _bigvgan, lambda entries: {"generator": entries}, ("generator",))
    yield _built("HiFi-GAN `Generator` *", None, written.hifigan, lambda g: {"generator": g}, ("generator",))
    yield _built("RVC `Synthesizer` *, half precision", None, written.rvc, written.rvc_file, ("weight",))
    yield _built("DINO `DINOHead` *", None, written.dino, lambda t: {"teacher": written.wrapped(t)}, ("teacher",))
    yield _timm("resnetv2_50x1_bit", "timm-bit", channels=(128, 128, 128, 128), stem_chs=32)
    small = {"depths": (1, 1), "channels": (256, 256), "stem_chs": 32}
    yield _timm("dm_nfnet_f0", "nfnet", **small)
    yield _timm("nf_resnet50", "nfnet:gamma=1.7139588594436646", **small)
    yield _torchvision("mobilenet_v3_small", torch.nn.utils.weight_norm, "weight norm")
    yield _torchvision("resnet18", torch.nn.utils.parametrizations.spectral_norm, "spectral norm")
    yield _peft()
