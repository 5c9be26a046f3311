"""The hooks of torch's older functions, and that nothing but what needs them misses them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import wnconvert
from wnconvert.modules import hooks
from wnconvert.modules.hooks import SPECTRAL_NORM, WEIGHT_NORM, is_torchs_own, kind_of


def _hook(module: nn.Module):
    (hook,) = module._forward_pre_hooks.values()
    return hook


def test_a_hook_is_known_by_its_class():
    norm, spectral = _hook(weight_norm(nn.Linear(3, 2))), _hook(spectral_norm(nn.Linear(3, 2)))
    assert (kind_of(norm), kind_of(spectral), kind_of(print)) == (WEIGHT_NORM, SPECTRAL_NORM, None)
    assert is_torchs_own(norm, WEIGHT_NORM)
    derived = type("Derived", (type(norm),), {})(norm.name, norm.dim)
    assert kind_of(derived) is WEIGHT_NORM
    assert not is_torchs_own(derived, WEIGHT_NORM)


@pytest.fixture
def torch_without_hooks(monkeypatch: pytest.MonkeyPatch):
    """A torch that has dropped its deprecated classes."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(hooks, "import_module", missing)
    hooks._class_of.cache_clear()
    yield
    hooks._class_of.cache_clear()


@pytest.mark.usefixtures("torch_without_hooks")
def test_without_those_classes_all_else_is_converted_and_folded():
    model = nn.Sequential(nn.Linear(3, 4), parametrizations.weight_norm(nn.Linear(4, 2)))
    x = torch.randn(5, 3)
    expected = model(x)
    converted, report = wnconvert.apply(model)
    assert [entry.fqn for entry in report.converted] == ["0.weight"]
    assert torch.equal(converted(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wnconvert.check(converted)
    folded, report = wnconvert.fold(converted)
    assert {entry.fqn for entry in report.converted} == {"0.weight", "1.weight"}
    assert torch.equal(folded(x), expected)
