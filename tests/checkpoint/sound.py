"""One sound folder of every kind of file that is read, as its own software writes it, and what can be done with it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.checkpoint.formats.samples import model_folder, write_foreign
from wnconvert import checkpoint


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        make: writes it.
        commands: what is done with it; each may write ``out``.
    """

    make: Callable[[Path], object]
    commands: tuple[str, ...]


def commands(name: str, *others: str) -> tuple[str, ...]:
    """Return what can be done with any file."""
    written = (
        *("fold {} -o out --state-dict", "fold {} -o out", "apply {} -o out", "apply {} -o out --state-dict"),
        *("apply {} -s spectral_norm -o out --dim 0", "apply {} -o out --format safetensors --state-dict"),
        *("apply {} -o out --format npz --state-dict", "fold {} -o out --format torch_legacy --state-dict"),
        *("migrate {} -o out --to parametrization", "migrate {} -o out --to hook --state-dict"),
        *("apply {} -o out --like {}", "apply {} --dry-run --json", "apply {} -o out --format model_folder"),
        *("apply {} -o out --format torch_sharded", "apply {} -o out --optimizer keep"),
    )
    looked = ("inspect {}", "inspect {} --json", "verify {} {}", "verify {} {} --state-dict --json")
    return tuple(each.replace("{}", name) for each in (*written, *looked)) + others


def state_dict() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(conv=nn.utils.weight_norm(nn.Conv1d(2, 3, 3)), norm=nn.BatchNorm1d(3)))
    tensors = {**model.state_dict(), "fc.weight": torch.randn(3, 4), "half.weight": torch.randn(2, 3).half()}
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)))
    return {**tensors, **{f"sn.{key}": value.clone() for key, value in model.state_dict().items()}}


def nested() -> dict[str, object]:
    tensors = state_dict()
    shared = torch.arange(12.0)
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(3, 4))])
    return {
        "model": tensors,
        "ema": OrderedDict(tensors),
        "optimizer": optimizer.state_dict(),
        "args": Namespace(x=1, y=[(1, 2), {"a"}]),
        "arrays": [np.arange(3), np.float32(2), b"bytes", 1 << 70],
        "others": (shared[:6].view(2, 3), shared.view(3, 4), nn.Parameter(torch.ones(2)), torch.eye(2).to_sparse()),
        "quantized.weight": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        "meta.weight": torch.empty(2, 2, device="meta"),
    }


def torch_zip(folder: Path) -> None:
    torch.save(nested(), folder / "in")


def torch_legacy(folder: Path) -> None:
    torch.save({**nested(), "meta.weight": 1}, folder / "in", _use_new_zipfile_serialization=False)


def module(folder: Path) -> None:
    torch.save({"net": nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3)), nn.ReLU())}, folder / "in")


def safetensors(folder: Path) -> None:
    save_file(state_dict(), folder / "in", {"format": "pt"})


def recorded(folder: Path) -> None:
    safetensors(folder)
    source = checkpoint.load(folder / "in")
    checkpoint.save(checkpoint.apply(source, "weight_norm").checkpoint, folder / "out", source=folder / "in")
    (folder / "out").replace(folder / "in")


def npz(folder: Path) -> None:
    np.savez(folder / "in.npz", **{key: value.numpy() for key, value in state_dict().items()})
    (folder / "in.npz").rename(folder / "in")


def sidecar(folder: Path) -> None:
    npz(folder)
    source = checkpoint.load(folder / "in")
    checkpoint.save(checkpoint.apply(source, "weight_norm").checkpoint, folder / "x.npz", source=folder / "in")
    (folder / "in").unlink()


def adapter(folder: Path) -> None:
    torch.manual_seed(0)
    save_file({"fc.weight": torch.randn(4, 6), "fc.bias": torch.randn(4)}, folder / "in", {"format": "pt"})
    (folder / "lora").mkdir()
    front = "base_model.model.fc.lora_"
    factors = {f"{front}A.weight": torch.randn(2, 6), f"{front}B.weight": torch.randn(4, 2)}
    factors[f"{front}magnitude_vector.weight"] = torch.rand(4) + 1
    save_file(factors, folder / "lora" / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True, "use_rslora": False, "alpha_pattern": {}}
    config |= {"modules_to_save": None, "target_modules": ["fc"], "init_lora_weights": True, "fan_in_fan_out": False}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))


KINDS: dict[str, Kind] = {
    "torch zip": Kind(torch_zip, commands("in", "apply in -o out --only model", "fold in -o out --only ema")),
    "torch legacy": Kind(torch_legacy, commands("in")),
    "module": Kind(module, commands("in")),
    "torch sharded": Kind(lambda folder: model_folder(folder / "in", shards=2, binary=True), commands("in")),
    "safetensors": Kind(safetensors, commands("in")),
    "recorded": Kind(recorded, commands("in")),
    "safetensors sharded": Kind(lambda folder: model_folder(folder / "in", shards=2), commands("in")),
    "npz": Kind(npz, commands("in")),
    "sidecar": Kind(sidecar, commands("x.npz")),
    "model folder": Kind(lambda folder: model_folder(folder / "in"), commands("in")),
    "torch package": Kind(lambda folder: write_foreign("torch_package", folder / "in"), commands("in")),
    "torchscript": Kind(lambda folder: write_foreign("torchscript", folder / "in"), commands("in")),
    "torch export": Kind(lambda folder: write_foreign("torch_export", folder / "in"), commands("in")),
    "adapter": Kind(
        adapter,
        (
            *("fold in --adapter lora -o out", "migrate in --adapter lora --to hook -o out", "inspect lora"),
            *("fold in --preset lora=lora -o out", "verify in lora", "apply lora -o out", "inspect lora --json"),
        ),
    ),
}
