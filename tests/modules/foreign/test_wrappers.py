"""Wrappers that normalize the weight of what they wrap."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import wnconvert


class SpectralWrapper(nn.Module):
    """A twin of the wrapper that GAN repositories copy from one another: it iterates in each forward."""

    def __init__(self, module: nn.Module, name: str = "weight", power_iterations: int = 1) -> None:
        super().__init__()
        self.module, self.name, self.power_iterations = module, name, power_iterations
        weight = module._parameters.pop(name)
        rows = weight.detach().flatten(1)
        module.register_parameter(f"{name}_u", nn.Parameter(torch.randn(rows.shape[0]), requires_grad=False))
        module.register_parameter(f"{name}_v", nn.Parameter(torch.randn(rows.shape[1]), requires_grad=False))
        module.register_parameter(f"{name}_bar", nn.Parameter(weight.detach()))

    def _update_u_v(self) -> None:
        u, v, bar = (getattr(self.module, f"{self.name}_{part}") for part in ("u", "v", "bar"))
        rows = bar.flatten(1)
        for _ in range(self.power_iterations):
            v.data = nn.functional.normalize(rows.data.t() @ u.data, dim=0)
            u.data = nn.functional.normalize(rows.data @ v.data, dim=0)
        setattr(self.module, self.name, bar / u.dot(rows.mv(v)))

    def forward(self, x: Tensor) -> Tensor:
        self._update_u_v()
        return self.module.forward(x)


def discriminator() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = SpectralWrapper(nn.Conv2d(3, 4, 3)), SpectralWrapper(nn.Conv2d(4, 2, 1, bias=False))
    return nn.Sequential(first, nn.ReLU(), second)


def test_the_folded_weight_is_that_of_the_next_forward() -> None:
    model, x = discriminator(), torch.randn(2, 3, 8, 8)
    model(x)
    folded, report = wnconvert.fold(model)
    assert torch.equal(folded(x), model(x))
    assert [(entry.fqn, entry.plain) for entry in report.converted] == [("0.weight", True), ("2.weight", True)]
    assert [type(layer) for layer in folded] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert list(folded.state_dict()) == ["0.weight", "0.bias", "2.weight"]


def test_the_original_wrapper_is_not_harmed() -> None:
    model, x = discriminator(), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model)
    wnconvert.fold(model)
    assert torch.equal(model(x), before(x))
    assert isinstance(model[0], SpectralWrapper)


def test_a_wrapper_that_is_the_whole_model() -> None:
    torch.manual_seed(0)
    model, x = SpectralWrapper(nn.Linear(4, 3)), torch.randn(2, 4)
    folded, _ = wnconvert.fold(model)
    assert type(folded) is nn.Linear
    assert torch.equal(folded(x), model(x))


def test_a_selection_keeps_the_other_wrappers() -> None:
    folded, report = wnconvert.fold(discriminator(), selection=wnconvert.Selection(include=("2",)))
    assert [type(layer) for layer in folded] == [SpectralWrapper, nn.ReLU, nn.Conv2d]
    assert "0.weight" in [entry.fqn for entry in report.skipped]


@pytest.fixture
def peft() -> object:
    return pytest.importorskip("peft")


def adapted(peft: object, *, dora: bool, normalized: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Linear(6, 5))
    model.add_module("second", nn.Linear(5, 4))
    if normalized:
        nn.utils.parametrizations.weight_norm(model.first)
    config = peft.LoraConfig(target_modules=["first", "second"], use_dora=dora, r=2, init_lora_weights=False)  # type: ignore[attr-defined]
    return peft.get_peft_model(model, config).eval()  # type: ignore[attr-defined]


@pytest.mark.oracle
def test_dora_layers_are_merged_as_peft_merges_them(peft: object) -> None:
    model, x = adapted(peft, dora=True), torch.randn(3, 6)
    folded, report = wnconvert.fold(model)
    torch.testing.assert_close(folded(x), model(x))
    merged = copy.deepcopy(model).merge_and_unload()
    assert {entry.scheme for entry in report.converted} == {"DoRA"}
    plain = {name.removeprefix("base_model.model."): tensor for name, tensor in folded.state_dict().items()}
    assert list(plain) == list(merged.state_dict())
    assert all(torch.equal(tensor, plain[name]) for name, tensor in merged.state_dict().items())


@pytest.mark.oracle
def test_an_adapter_over_a_normalized_layer_can_be_merged_after_fold(peft: object) -> None:
    model, x = adapted(peft, dora=False, normalized=True), torch.randn(3, 6)
    assert "adapter merge" in {finding.topic for finding in wnconvert.check(model)}
    folded, report = wnconvert.fold(model)
    assert [entry.fqn for entry in report.converted] == ["base_model.model.first.base_layer.weight"]
    assert torch.equal(folded(x), model(x))
    torch.testing.assert_close(folded.merge_and_unload()(x), model(x))
