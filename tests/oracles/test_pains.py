"""What users of weight norm complain of, each as it fails elsewhere and as it works here.

More of the kind: attention in ``tests/modules/test_inplace.py``, weight standardization in ``test_timm.py``, removal
across torch's two spellings in ``test_transformers.py``, and what a conversion warns of in
``tests/modules/test_guards.py``.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm as hook_weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import wnconvert
from tests.helpers import bits_equal

pytestmark = pytest.mark.oracle


class Vocoder(nn.Module):
    """A small generator of the usual kind: all convolutions normalized."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.pre = norm(nn.Conv1d(4, 8, 3, padding=1))
        self.up = norm(nn.ConvTranspose1d(8, 4, 4, 2, 1))
        self.blocks = nn.ModuleList([norm(nn.Conv1d(4, 4, 3, padding=1)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.pre(x).relu())
        for block in self.blocks:
            x = x + block(x.relu())
        return x


X = torch.linspace(-1, 1, 48).reshape(1, 4, 12)
APIS = {"parametrization": parametrizations.weight_norm, "hook": hook_weight_norm}
each_api = pytest.mark.parametrize("norm", APIS.values(), ids=APIS.keys())


def trained(model: nn.Module) -> nn.Module:
    """Take a step, after which torch's hooks leave the result of a computation in the modules."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model(X).square().sum().backward()
    optimizer.step()
    model(X)
    return model


class Count(TorchDispatchMode):
    """Counts the kernels that compute norms."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "norm" in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def test_copies_of_a_normalized_model_can_be_averaged():
    """https://github.com/pytorch/pytorch/issues/28594: torch's hooks forbid deepcopy, and so EMA and SWA."""
    with pytest.raises(RuntimeError, match="deepcopy"):
        AveragedModel(trained(Vocoder(hook_weight_norm)))
    applied = trained(wnconvert.apply(Vocoder(lambda layer: layer)).model)
    average = AveragedModel(applied)
    average.update_parameters(applied)
    assert torch.equal(average(X), applied(X))
    folded = wnconvert.fold(average.module).model
    assert torch.equal(folded(X), applied(X))


@each_api
def test_a_trained_model_is_folded_though_it_cannot_be_copied(norm):
    model = trained(Vocoder(norm))
    expected = model(X)
    folded, report = wnconvert.fold(model)
    assert len(report.converted) == 5
    assert torch.equal(folded(X), expected)
    assert torch.equal(model(X), expected)


@each_api
def test_one_call_folds_every_norm_and_may_be_repeated(norm):
    """https://github.com/pytorch/pytorch/issues/57289, https://github.com/pytorch/pytorch/issues/125064."""
    model = Vocoder(norm)
    folded = wnconvert.fold(model).model
    again, report = wnconvert.fold(folded)
    assert not report.converted
    assert torch.equal(again(X), model(X))
    assert list(folded.state_dict()) == list(Vocoder(lambda layer: layer).state_dict())


def test_each_api_refuses_to_remove_what_the_other_made():
    with pytest.raises(ValueError, match="not found"):
        nn.utils.remove_weight_norm(Vocoder(parametrizations.weight_norm).pre)
    with pytest.raises(ValueError, match="does not have a parametrization"):
        parametrize.remove_parametrizations(Vocoder(hook_weight_norm).pre, "weight")


@each_api
def test_inference_computes_no_norms_after_folding(norm):
    """https://github.com/vllm-project/vllm-omni/issues/7871."""
    model = Vocoder(norm)
    with torch.no_grad(), Count() as before:
        expected = model(X)
    folded = wnconvert.fold(model).model
    with torch.no_grad(), Count() as after:
        assert torch.equal(folded(X), expected)
    assert (before.count, after.count) == (5, 0)


def test_a_zero_row_stays_zero_and_can_learn():
    """https://github.com/pytorch/pytorch/issues/19126: torch makes it NaN."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    assert parametrizations.weight_norm(copy.deepcopy(layer)).weight.isnan().any()
    applied = wnconvert.apply(nn.Sequential(layer)).model
    assert bits_equal(wnconvert.fold(applied).model.get_parameter("0.weight"), layer.weight)
    applied(torch.ones(1, 4)).sum().backward()
    gradients = [parameter.grad for parameter in applied.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert applied.state_dict()["0.weight_g"].flatten()[1] == 0
    assert applied.get_parameter("0.weight_g").grad.flatten()[1] != 0


def test_a_normalized_lstm_gets_its_flat_weights_back():
    """https://github.com/pytorch/pytorch/issues/86457."""
    model = nn.Sequential(nn.LSTM(4, 3))
    for name, parameter in list(model[0].named_parameters()):
        if parameter.dim() > 1:
            parametrizations.weight_norm(model[0], name)
    assert "weight_ih_l0" not in dict(model[0].named_parameters())
    folded = wnconvert.fold(model).model[0]
    assert [id(weight) for weight in folded._flat_weights] == [id(each) for each in folded.parameters()]
    folded.flatten_parameters()
    x = torch.randn(5, 1, 4)
    assert torch.equal(folded(x)[0], model(x)[0])


def test_a_spectral_norm_is_folded_as_evaluation_computes_it_whatever_the_mode():
    """Removing torch's own in training mode takes another power iteration, which moves the weight."""
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(20, 40))
    evaluated = layer.eval().weight.clone()
    layer.train()
    folded = wnconvert.fold(nn.Sequential(layer)).model[0]
    assert bits_equal(folded.weight, evaluated)
    assert folded.training
    removed = parametrize.remove_parametrizations(copy.deepcopy(layer), "weight")
    assert not torch.equal(removed.weight, evaluated)


def test_a_spectral_norm_may_be_used_twice_before_the_backward():
    """https://github.com/pytorch/pytorch/issues/66363."""
    applied = wnconvert.apply(nn.Sequential(nn.Linear(4, 4)), "spectral_norm").model.train()
    x = torch.randn(2, 4)
    (applied(x) + applied(x * 2)).sum().backward()
    assert all(parameter.grad is not None for parameter in applied.parameters())


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


def test_a_tied_weight_is_normalized_once_and_stays_tied():
    """torch normalizes each end by itself, and the two train apart."""
    torchs = Tied()
    parametrizations.weight_norm(torchs.embedding)
    parametrizations.weight_norm(torchs.head)
    apart = [torchs.embedding.parametrizations.weight.original0, torchs.head.parametrizations.weight.original0]
    assert apart[0] is not apart[1]

    model, ids = Tied(), torch.tensor([[1, 2, 3]])
    applied = wnconvert.apply(model).model
    assert len(list(applied.parameters())) == 2
    assert torch.equal(applied(ids), model(ids))
    optimizer = torch.optim.SGD(applied.parameters(), 0.1)
    applied(ids).square().sum().backward()
    optimizer.step()
    folded = wnconvert.fold(applied).model
    assert folded.head.weight is folded.embedding.weight
    assert torch.equal(folded(ids), applied(ids))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_is_merged_into_a_normalized_layer_after_folding(dora):
    """peft adds to what a parametrization computes anew, and the merge is lost."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential()
    base.add_module("layer", parametrizations.weight_norm(nn.Linear(6, 5)))
    x = torch.randn(3, 6)

    def adapted(model: nn.Module) -> nn.Module:
        torch.manual_seed(1)
        options = {"target_modules": ["layer"], "r": 2, "init_lora_weights": False, "use_dora": dora}
        return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options)).eval()

    expected = adapted(base)(x)
    if not dora:
        lost = adapted(base).merge_and_unload()
        assert torch.equal(lost(x), base(x))
    folded = wnconvert.fold(base).model
    assert torch.equal(adapted(folded)(x), expected)
    merged = adapted(folded).merge_and_unload()
    assert not torch.equal(merged(x), base(x))
    torch.testing.assert_close(merged(x), expected)


def test_a_spectral_norm_can_be_reset():
    """Folded and applied again, it has the vectors of the weight: https://github.com/pytorch/pytorch/issues/25092."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)))
    with torch.no_grad():
        model[0].parametrizations.weight[0]._u.fill_(0.5)
        model[0].parametrizations.weight[0]._v.fill_(6**-0.5)
    stale = torch.linalg.matrix_norm(model[0].eval().weight.detach(), 2)
    folded, _ = wnconvert.fold(model)
    again, report = wnconvert.apply(folded, "spectral_norm")
    assert len(report.converted) == 1
    plain, _ = wnconvert.fold(again)
    assert abs(stale - 1) > 0.1
    torch.testing.assert_close(torch.linalg.matrix_norm(plain.state_dict()["0.weight"], 2), torch.tensor(1.0))
