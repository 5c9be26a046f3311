"""Files with whole modules whose classes are gone, and what they must be read as."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


class Config:
    """Something that a file may hold besides modules."""

    def __init__(self) -> None:
        self.width = 3


@contextmanager
def glow() -> Iterator[ModuleType]:
    """Give the classes of `tests.checkpoint.waveglow` in a module that cannot be imported afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(__file__).with_name("waveglow.py").read_text()
        (Path(folder) / "glow.py").write_text(source)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield importlib.import_module("glow")
        finally:
            sys.path.remove(folder)
            sys.modules.pop("glow", None)


def waveglow(classes: ModuleType) -> nn.Module:
    torch.manual_seed(0)
    return classes.WaveGlow(n_mel_channels=4, n_flows=2, n_channels=6)


def training_file(path: Path, *, zipped: bool = True) -> nn.Module:
    """Write what WaveGlow's training writes (save_checkpoint in train.py); return the model, which lives on."""
    with glow() as classes:
        model = waveglow(classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        sum(parameter.sum() for parameter in model.parameters()).backward()
        optimizer.step()
        content = {"model": model, "iteration": 580000, "optimizer": optimizer.state_dict(), "learning_rate": 1e-4}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return model


def without_weight_norm(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a model after torch has removed every weight norm from it."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return model.state_dict()


def assert_state_dict(actual: object, module: nn.Module) -> None:
    """Assert that a state dict is what the live module gives: keys, order, values, kinds, and what is tied."""
    expected = module.state_dict()
    assert type(actual) is OrderedDict
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key
        facts = [(type(t), t.dtype, t.stride(), t.requires_grad) for t in (actual[key], tensor)]
        assert facts[0] == facts[1], key
    for a in expected:
        for b in expected:
            tied = [each[a].numel() and each[a].data_ptr() == each[b].data_ptr() for each in (actual, expected)]
            assert tied[0] == tied[1], (a, b)
