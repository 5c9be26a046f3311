"""Files as other software writes them."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn


class Model(nn.Module):
    """Holds what a state dict may hold, and can be scripted and exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean(2))


def write_foreign(name: str, path: Path) -> object:
    """Write a file with the library that its kind is from; return what it must be read as."""
    torch.manual_seed(0)
    model = Model().eval()
    if name == "torchscript":
        with pytest.warns((DeprecationWarning, FutureWarning), match=r"torch\.jit"):
            torch.jit.save(torch.jit.script(model), path)
        return OrderedDict(model.state_dict())
    if name == "torch_package":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)  # torch's own exporter uses it
            with torch.package.PackageExporter(path) as exporter:
                exporter.extern("**")
                exporter.save_pickle("model", "model.pkl", model, dependencies=False)
        return OrderedDict(model.state_dict())
    torch.export.save(torch.export.export(model, (torch.ones(1, 2, 8),)), path)
    names = dict(model.named_parameters())
    return OrderedDict((key, names.get(key, value)) for key, value in model.state_dict().items())


def model_folder(path: Path, *, shards: int = 1, binary: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {f"layer.{index}.{name}": torch.randn(4, 4) for index in range(2) for name in ("weight", "bias")}
    parted = {"up.weight_g": torch.rand(4, 1) + 1, "up.weight_v": torch.randn(4, 4)}
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "x"}')
    (path / "sub").mkdir()
    (path / "sub" / "vocab.txt").write_bytes(b"\x00words")
    stem, suffix = ("pytorch_model", "bin") if binary else ("model", "safetensors")
    tensors = {**state, **parted}

    def write(part: dict[str, torch.Tensor], name: str) -> None:
        torch.save(part, path / name) if binary else save_file(part, path / name, {"format": "pt"})

    if shards == 1:
        write(tensors, f"{stem}.{suffix}")
        return tensors
    # g and v of one weight in different shards
    names = {key: f"{stem}-{1 + (key == 'up.weight_v'):05}-of-00002.{suffix}" for key in tensors}
    for name in set(names.values()):
        write({key: value for key, value in tensors.items() if names[key] == name}, name)
    index = {"metadata": {"total_size": 1, "total_parameters": 88}, "weight_map": names}
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return tensors
