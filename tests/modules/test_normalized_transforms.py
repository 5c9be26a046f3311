"""The transforms of torch.func over models converted in place, beside torch's own parametrized ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils import parametrizations

from tests.helpers import variant_id, variants
from wnconvert.modules.inplace import apply_in_place
from wnconvert.scheme import Scheme
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection

pytestmark = [
    # of torch's own kernel for weight norm, which torch's parametrization calls too
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # of torch's own forward differentiation
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]

X = torch.linspace(-1, 1, 20).reshape(5, 4)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def converted(scheme: Scheme) -> nn.Module:
    model = plain()
    apply_in_place(model, scheme, scheme.default_dim, Selection())  # type: ignore[arg-type]
    return model


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def loss(model: nn.Module) -> Callable[..., Tensor]:
    return lambda p, x: functional_call(model, p, x).square().sum()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_vmap_over_inputs(scheme: Scheme, training: bool, mode: Any) -> None:
    model = converted(scheme).train(training)
    twin = copy.deepcopy(model)
    with mode():
        torch.testing.assert_close(vmap(model)(X), twin(X))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_gradients_are_those_of_backward(scheme: Scheme, training: bool) -> None:
    model = converted(scheme).train(training)
    twin = copy.deepcopy(model)
    found = grad(loss(model))(parameters(model), X)
    twin(X).square().sum().backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert type(ours) is Tensor
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_gradients_of_each_sample(scheme: Scheme, training: bool) -> None:
    model = converted(scheme).train(training)
    values = parameters(model)
    found = vmap(grad(loss(model)), (None, 0))(values, X)
    model.eval()  # training has updated the state, once
    expected = [grad(loss(model))(values, x) for x in X]
    for name, gradients in found.items():
        torch.testing.assert_close(gradients, torch.stack([each[name] for each in expected]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_ensembles(scheme: Scheme, training: bool) -> None:
    models = [converted(scheme).train(training) for _ in range(3)]
    with torch.no_grad():
        for index, model in enumerate(models):
            for parameter in model.parameters():
                parameter.mul_(1 + index)
    values, buffers = stack_module_state(models)
    found = vmap(lambda p, b, x: functional_call(models[0], (p, b), x), (0, 0, None))(values, buffers, X)
    torch.testing.assert_close(found, torch.stack([model(X) for model in models]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_derivatives_by_the_input(scheme: Scheme, training: bool) -> None:
    model = converted(scheme).train(training)
    _, tangents = jvp(model, (X,), (torch.ones_like(X),))
    model.eval()
    torch.testing.assert_close(tangents, jacrev(model)(X).sum((2, 3)))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        torch.testing.assert_close(forward_ad.unpack_dual(model(dual)).tangent, tangents)


def test_what_torchs_kernel_cannot_do_fails_alike() -> None:
    theirs = plain()
    parametrizations.weight_norm(theirs[0])
    ours = converted(WeightNorm())
    for model in (theirs, ours):
        values = parameters(model)
        with pytest.raises(NotImplementedError, match="forward AD with _weight_norm"):
            jvp(lambda p, model=model: functional_call(model, p, X), (values,), (values,))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_torchs_parametrization(training: bool) -> None:
    theirs, ours = plain().train(training), converted(WeightNorm()).train(training)
    for index in (0, 2):
        parametrizations.weight_norm(theirs[index])
    by_name = grad(loss(theirs))(parameters(theirs), X)
    found = grad(loss(ours))(parameters(ours), X)
    for index in (0, 2):
        for part, original in (("g", "original0"), ("v", "original1")):
            expected = by_name[f"{index}.parametrizations.weight.{original}"]
            torch.testing.assert_close(found[f"{index}.weight_{part}"], expected)
