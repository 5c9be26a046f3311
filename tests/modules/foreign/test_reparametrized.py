"""torch's own normalizations, folded without the harm that torch's removal does."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    spectral_norm as hook_spectral_norm,
    weight_norm as hook_weight_norm,
)

import wnconvert
from tests.helpers import bits_equal
from wnconvert.modules.foreign.reparametrized import fold_reparametrized


class Doubled(nn.Module):
    """A parametrization that torch does not ship."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class LowRank(nn.Module):
    """A parametrization with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 1)), nn.Parameter(torch.randn(1, 4))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


def user(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", LowRank() if isinstance(layer, nn.Linear) else Doubled())
    return layer


def stack(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


APIS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "hook weight_norm": hook_weight_norm,
    "hook spectral_norm": hook_spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "user": user,
    "weight_norm then spectral_norm": stack,
}
apis = pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
X = torch.linspace(-1, 1, 32).reshape(1, 4, 8)


def network(api: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 4, 5), nn.ReLU(), nn.Linear(4, 4))
    api(model[0])
    api(model[2])
    model.train()(X)  # so that the hook APIs have a computed weight, and spectral norm has iterated
    return model


@apis
def test_the_folded_model_computes_what_evaluation_computes(api: Callable[[nn.Module], nn.Module]) -> None:
    model = network(api)
    folded, report = wnconvert.fold(model)
    assert torch.equal(folded.eval()(X), model.eval()(X))
    assert [(entry.fqn, entry.plain) for entry in report.converted] == [("0.weight", True), ("2.weight", True)]


@apis
def test_the_folded_model_is_a_plain_one(api: Callable[[nn.Module], nn.Module]) -> None:
    folded, _ = wnconvert.fold(network(api))
    plain = nn.Sequential(nn.Conv1d(4, 4, 5), nn.ReLU(), nn.Linear(4, 4))
    assert [type(module) for module in folded.modules()] == [type(module) for module in plain.modules()]
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not any(module._forward_pre_hooks for module in folded.modules())
    assert not any(module._state_dict_hooks or module._load_state_dict_pre_hooks for module in folded.modules())
    plain.load_state_dict(folded.state_dict(), strict=True)
    folded.load_state_dict(plain.state_dict(), strict=True)


@apis
def test_the_original_is_not_harmed(api: Callable[[nn.Module], nn.Module]) -> None:
    model = network(api).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(X)
    wnconvert.fold(model)
    assert torch.equal(model(X), expected)
    assert all(bits_equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [type(module).__name__ for module in model].count("Linear") == (1 if "hook" in _name(api) else 0)


def _name(api: Callable[[nn.Module], nn.Module]) -> str:
    return next(name for name, each in APIS.items() if each is api)


def test_torchs_own_removal_on_a_copy_breaks_the_original() -> None:
    model = parametrizations.weight_norm(nn.Linear(2, 2))
    duplicate = copy.deepcopy(model)
    parametrize.remove_parametrizations(duplicate, "weight")
    with pytest.raises(AttributeError):
        _ = model.weight


@pytest.mark.parametrize("frozen", [True, False])
def test_the_weight_is_a_parameter_under_no_grad_and_when_frozen(frozen: bool) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)).requires_grad_(not frozen))
    with torch.no_grad():
        folded, _ = wnconvert.fold(model)
    assert isinstance(folded[0].weight, nn.Parameter)
    assert folded[0].weight.requires_grad is not frozen


def test_spectral_norm_takes_no_further_step() -> None:
    model = network(parametrizations.spectral_norm).train()
    before = model[2].parametrizations.weight[0]._u.clone()
    wnconvert.fold(model)
    assert torch.equal(model[2].parametrizations.weight[0]._u, before)
    assert model[2].parametrizations.weight.training


def test_what_was_tied_stays_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for layer in model:
        parametrizations.weight_norm(layer)
    for part in ("original0", "original1"):
        setattr(model[1].parametrizations.weight, part, getattr(model[0].parametrizations.weight, part))
    folded, _ = wnconvert.fold(model)
    assert folded[0].weight is folded[1].weight


def test_a_selection_leaves_the_rest_parametrized() -> None:
    model = nn.LSTM(3, 4)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parametrizations.weight_norm(model, name)
    expected = model(torch.ones(2, 1, 3))[0]
    folded, report = wnconvert.fold(model, selection=wnconvert.Selection(include=("weight_hh_l0",)))
    assert [entry.fqn for entry in report.converted] == ["weight_hh_l0"]
    assert parametrize.is_parametrized(folded, "weight_ih_l0")
    assert not parametrize.is_parametrized(folded, "weight_hh_l0")
    assert torch.equal(folded.weight_ih_l0, model.weight_ih_l0)
    assert torch.equal(folded.weight_hh_l0, model.weight_hh_l0)
    assert torch.equal(folded(torch.ones(2, 1, 3))[0], expected)


@pytest.mark.parametrize("api", [hook_weight_norm, parametrizations.weight_norm])
def test_a_recurrent_module_gets_its_weights_back_in_order(api: Callable[..., nn.Module]) -> None:
    plain = nn.GRU(3, 4, 2)
    x = torch.ones(2, 1, 3)
    model = copy.deepcopy(plain)
    for name in ("weight_hh_l1", "weight_ih_l0"):
        api(model, name)
    folded, _ = wnconvert.fold(model)
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert all(
        flat is dict(folded.named_parameters())[name]
        for flat, name in zip(folded._flat_weights, folded._flat_weights_names, strict=True)
    )
    torch.testing.assert_close(folded(x)[0], plain(x)[0])


def test_apply_reports_what_others_normalized() -> None:
    class Untraceable(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() < 1e9 else x

    layers = [nn.Linear(4, 4) for _ in range(3)]
    model = Untraceable(parametrizations.weight_norm(layers[0]), layers[1], hook_weight_norm(layers[2]))
    _, report = wnconvert.apply(model)
    assert [entry.fqn for entry in report.converted] == ["1.weight"]
    assert [(entry.fqn, entry.already) for entry in report.skipped] == [("0.weight", True), ("2.weight", True)]


class Step(nn.Module):
    """A parametrization given as a function of the weight."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("seen", torch.zeros(()))
        self.count = 0

    def forward(self, weight: Tensor) -> Tensor:
        return self.function(self, weight)


def count(step: Step, weight: Tensor) -> Tensor:
    step.count += 1
    return weight * step.count


def assign(step: Step, weight: Tensor) -> Tensor:
    step.seen = step.seen + 1
    return weight * 2


def fail(step: Step, weight: Tensor) -> Tensor:
    raise KeyError("no such weight")


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "noise": (lambda step, w: w + torch.randn_like(w), "random: aten.randn_like"),
    "functional dropout": (lambda step, w: nn.functional.dropout(w, 0.5), "random"),
    "factory": (lambda step, w: w + torch.rand(4, 4), "random"),
    "python's generator": (lambda step, w: w * random.random(), "evaluated twice"),
    "a counter": (count, "evaluated twice"),
    "buffer": (lambda step, w: w * step.seen.add_(1), "changes a parameter or buffer in place"),
    "buffer by data": (lambda step, w: w * step.seen.data.fill_(3), "changes a parameter or buffer in place"),
    "itself": (lambda step, w: w.mul_(2), "changes a parameter or buffer in place"),
    "view of itself": (lambda step, w: w.view(-1).mul_(2).view(4, 4), "changes a parameter or buffer in place"),
    "assigned buffer": (assign, "assigns a parameter or buffer"),
    "no tensor": (lambda step, w: [w], "cannot be computed"),
    "an error": (fail, "cannot be computed: KeyError"),
    "overlapping": (lambda step, w: w[:1].expand(4, 4), "overlap"),
    "gaps": (lambda step, w: torch.cat([w, w], 1)[:, ::2], "gaps"),
}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("training", [False, True])
def test_a_parametrization_without_a_value_of_its_own_is_left_alone(case: str, training: bool) -> None:
    function, reason = REFUSED[case]
    model = nn.Sequential(nn.Linear(4, 4)).train(training)
    step = Step(function)
    parametrize.register_parametrization(model[0], "weight", step, unsafe=True)
    step.count = 0
    before, generator = state_of(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    report = fold_reparametrized(model, wnconvert.Selection())
    assert report.converted == ()
    assert [entry.fqn for entry in report.skipped] == ["0.weight"]
    assert reason in report.skipped[0].reason
    assert parametrize.is_parametrized(model[0], "weight")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert step.count == 0


@pytest.mark.parametrize("training", [False, True])
def test_dropout_on_a_weight_is_random(training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).train(training)
    parametrize.register_parametrization(model[0], "weight", nn.Dropout(0.5))
    report = fold_reparametrized(model, wnconvert.Selection())
    assert [entry.reason for entry in report.skipped] == ["it is random in training: Dropout"]


def test_a_transposed_weight_keeps_its_strides() -> None:
    model = nn.Linear(4, 4)
    parametrize.register_parametrization(model, "weight", Step(lambda step, w: w.t()))
    expected = model.eval()(X.mT)
    assert fold_reparametrized(model, wnconvert.Selection()).modified
    assert model.weight.stride() == (1, 4)
    assert torch.equal(model(X.mT), expected)


@apis
def test_folding_in_inference_mode_gives_normal_tensors(api: Callable[[nn.Module], nn.Module]) -> None:
    model = network(api)
    model[0].requires_grad_(False)
    flags = [any(p.requires_grad for p in layer.parameters()) for layer in (model[0], model[2])]
    with torch.inference_mode():
        fold_reparametrized(model, wnconvert.Selection())
    weights = [model[0].weight, model[2].weight]
    assert not any(weight.is_inference() for weight in weights)
    assert [weight.requires_grad for weight in weights] == flags
    model(X).sum().backward()
