"""Each finding is shown together with the misbehaviour that it warns of."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm as hook_weight_norm

import wnconvert
from wnconvert.modules.inplace import apply_in_place


def topics(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {finding.topic: finding.fqns for finding in wnconvert.check(model)}


class Adapter(nn.Module):
    """As peft's LoRA layers: a layer, and an addition to its weight that can be merged into it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer

    def merge(self) -> None:
        self.base_layer.weight.data += 1


def test_a_plain_model_has_no_findings() -> None:
    assert wnconvert.check(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2), nn.MultiheadAttention(4, 2))) == ()


def test_hooks_in_attention_never_run() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    hook_weight_norm(model.out_proj)
    x = torch.randn(1, 3, 4)
    before = model(x, x, x)[0]
    with torch.no_grad():
        model.out_proj.weight_g *= 3
    assert torch.equal(model(x, x, x)[0], before)
    assert topics(model)["attention"] == ("out_proj.weight",)


def test_hooks_elsewhere_are_no_finding_of_attention() -> None:
    model = nn.Sequential(hook_weight_norm(nn.Linear(4, 4)), nn.MultiheadAttention(4, 2))
    assert "attention" not in topics(model)


def test_a_merge_into_a_computed_weight_is_lost() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(Adapter(layer), Adapter(nn.Linear(3, 3)))
    before = layer.weight.clone()
    model[0].merge()
    assert torch.equal(layer.weight, before)
    assert topics(model)["adapter merge"] == ("0.base_layer.weight",)


@pytest.mark.parametrize("api", [hook_weight_norm, parametrizations.weight_norm])
def test_a_direction_of_zeros_makes_nan(api: object) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[1] = 0
    api(model[0])  # type: ignore[operator]
    api(model[1])  # type: ignore[operator]
    assert model[0](torch.ones(1, 3)).isnan().any()
    assert topics(model)["zero channel"] == ("0.weight",)


def test_a_zero_channel_is_looked_for_along_the_kept_dim() -> None:
    layer = nn.Conv1d(2, 2, 3)
    with torch.no_grad():
        layer.weight[:, :, 1] = 0
    assert "zero channel" not in topics(parametrizations.weight_norm(copy.deepcopy(layer), dim=0))
    assert "zero channel" in topics(parametrizations.weight_norm(copy.deepcopy(layer), dim=2))


def test_batch_norm_behind_a_normalized_convolution() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, which that module imports
        from torch.fx.experimental.optimization import fuse
    fused = fuse(model)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert topics(model)["batch norm fusion"] == ("0.weight",)
    folded, _ = wnconvert.fold(model)
    fused = fuse(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_hooked_models_cannot_be_copied_after_a_forward() -> None:
    model = nn.Sequential(hook_weight_norm(nn.Linear(2, 2)))
    model(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert topics(model)["copy"] == ("0.weight",)


def test_a_tie_is_half_undone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    parametrizations.weight_norm(model[0])
    parametrizations.weight_norm(model[2])
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    assert not torch.equal(model[0].weight, model[1].weight)
    assert topics(model)["tied weight"] == ("0.weight",)


def test_initializing_a_computed_weight_changes_nothing() -> None:
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    before = layer.weight.clone()
    nn.init.zeros_(layer.weight)
    assert torch.equal(layer.weight, before)
    assert topics(layer)["initialization"] == ("weight",)


def test_parametrized_models_cannot_be_pickled() -> None:
    model = parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        pickle.dumps(model)
    assert topics(model)["pickling"] == ("weight",)
    assert "pickling" not in topics(hook_weight_norm(nn.Linear(2, 2)))


def test_what_was_converted_in_place_can_be_pickled() -> None:
    model, _ = wnconvert.apply(nn.LSTM(2, 2))
    assert "pickling" not in topics(model)
    assert topics(pickle.loads(pickle.dumps(model))) == topics(model)


def test_quantizers_find_no_plain_layer() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Embedding(2, 2))
    assert parametrize.type_before_parametrizations(model[0]) is nn.Linear
    assert type(model[0]) is not nn.Linear
    assert topics(model)["quantization"] == ("0.weight",)


def test_what_was_converted_in_place_is_seen_too() -> None:
    model, _ = wnconvert.apply(nn.LSTM(2, 2))
    assert topics(model)["initialization"] == ("weight_ih_l0", "weight_hh_l0")


def hessian_is_right(layer: nn.Module, *names: str) -> bool:
    """Whether the second derivatives of what a layer computes are those that finite differences show."""
    tensors = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]
    x = torch.randn(2, 3, dtype=torch.float64)

    def call(*values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return result

    return torch.autograd.gradgradcheck(call, tensors, raise_exception=False)


def in_place(scheme: object, dim: object = 0) -> nn.Module:
    layer = nn.Linear(3, 2).double()
    apply_in_place(layer, scheme, dim, wnconvert.Selection())  # type: ignore[arg-type]
    return layer


V = "parametrizations.weight.original1"


@pytest.mark.parametrize(
    ("make", "name", "right"),
    [
        (lambda: hook_weight_norm(nn.Linear(3, 2).double()), "weight_v", False),
        (lambda: hook_weight_norm(nn.Linear(3, 2).double(), dim=None), "weight_v", True),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 2).double()), V, False),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 2).double(), dim=1), V, False),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 2).double(), dim=None), V, True),
        (lambda: in_place(wnconvert.WeightNorm()), "weight_v", False),
        (lambda: in_place(wnconvert.WeightNorm(), None), "weight_v", True),
        (lambda: in_place(wnconvert.WeightNorm(p=1.0)), "weight_v", True),
        (lambda: in_place(wnconvert.WeightNorm(written_out=True)), "weight_v", True),
        (lambda: in_place(wnconvert.WeightNorm(written_out=True), 1), "weight_v", True),
        (lambda: in_place(wnconvert.UnitNorm()), "weight_direction", True),
    ],
)
def test_second_derivatives_of_torchs_kernel_are_wrong(make: object, name: str, right: bool) -> None:
    torch.manual_seed(0)
    layer = make()  # type: ignore[operator]
    assert hessian_is_right(layer, name) == right
    assert ("second derivatives" in topics(layer)) == (not right)


def test_the_gradient_penalty_of_a_normalized_critic_is_right() -> None:
    """It differentiates a gradient by the input, in which the weight occurs but not its gradient."""
    critic = in_place(wnconvert.WeightNorm())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    v = critic.get_parameter("weight_v").detach().clone().requires_grad_()

    def penalty(v: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(critic, {"weight_v": v}, (x,)).tanh().sum()
        return torch.autograd.grad(out, x, create_graph=True)[0].square().sum()

    assert torch.autograd.gradcheck(penalty, (v,))


def test_nothing_is_changed() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wnconvert.check(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_module_is_refused_with_the_way_out():
    with pytest.raises(wnconvert.KindError, match="cannot be checked; give a module"):
        wnconvert.check(torch.relu)
