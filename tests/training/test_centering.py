"""Mean-only batch norm behind the layers of a model, and back into their biases."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.training.settling import Branching, X, Y, by_hooks, by_parametrizations, ours, sequential
from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.training.centering import add_mean_only_batch_norm, fold_mean_only_batch_norm
from wnconvert.training.initialization.initializing import initialize

MAKERS = pytest.mark.parametrize("make", [ours, by_parametrizations, by_hooks], ids=["ours", "new", "hooks"])


def trained(make) -> nn.Module:
    model = make(Branching())
    add_mean_only_batch_norm(model, momentum=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in (X, Y, X):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return model.eval()


@MAKERS
def test_in_training_each_layer_gives_the_mean_that_its_bias_is(make):
    model = make(Branching())
    biases = {name: module.bias for name, module in model.named_children()}
    assert add_mean_only_batch_norm(model) == ("conv", "depthwise", "up", "head")
    found: dict[str, Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda m, args, y, name=name: found.update({name: y.transpose(0, 1).flatten(1)}))
    for _ in range(2):
        model(X)
    for name, bias in biases.items():
        assert model.get_submodule(name).mean_only.bias is bias
        torch.testing.assert_close(found[name].mean(1), bias, rtol=1e-5, atol=1e-5)


def test_training_is_that_of_the_formula_of_the_paper():
    plain, x = Branching().double(), X.double().requires_grad_()
    weights = torch.randn(16, 4).double()
    model = ours(plain)
    add_mean_only_batch_norm(model, momentum=1.0)

    def centered(t: Tensor, bias: Tensor) -> Tensor:
        dims = [dim for dim in range(t.dim()) if dim != 1]
        return t - t.mean(dims, keepdim=True) + bias.reshape([-1 if dim == 1 else 1 for dim in range(t.dim())])

    t = centered(F.conv1d(x, plain.conv.weight, padding=1), plain.conv.bias).tanh()
    t = centered(F.conv1d(t, plain.depthwise.weight, groups=8), plain.depthwise.bias).relu()
    t = centered(F.conv_transpose1d(t, plain.up.weight, stride=2), plain.up.bias).sigmoid()
    wanted = centered(t.mean(-1) @ plain.head.weight.t(), plain.head.bias)
    y = model(x)
    torch.testing.assert_close(y, wanted)
    biases = [module.bias for module in plain.children()], [module.mean_only.bias for module in model.children()]
    first, second = (
        torch.autograd.grad((out * weights).sum(), [x, *own]) for out, own in zip((wanted, y), biases, strict=True)
    )
    assert all(gradient.any() for gradient in first)
    for one, other in zip(second, first, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)  # some are small


@MAKERS
def test_until_it_is_trained_evaluation_has_the_bits_that_it_had(make):
    model = make(Branching()).eval()
    before = model(X)
    add_mean_only_batch_norm(model)
    assert torch.equal(model(X), before)


@pytest.mark.parametrize("grad", [True, False])
@MAKERS
def test_folding_keeps_every_bit_of_evaluation(make, grad):
    model = trained(make)
    with torch.set_grad_enabled(grad):
        before = model(X)
        wanted = {name: module.mean_only.shift() for name, module in model.named_children()}
        keys = [*make(Branching()).state_dict()]
        assert fold_mean_only_batch_norm(model) == ("conv", "depthwise", "up", "head")
        assert torch.equal(model(X), before)
    assert sorted(model.state_dict()) == sorted(keys)
    for name, module in model.named_children():
        assert torch.equal(module.bias, wanted[name])
        assert module.bias.requires_grad
        assert module.bias.is_leaf
        assert "bias" not in vars(module)
        assert not module._forward_hooks


def test_weights_and_biases_fold_in_any_order():
    one, other = trained(ours), trained(ours)
    before = one(X)
    fold_mean_only_batch_norm(one)
    one = wnconvert.fold(one).model
    other = wnconvert.fold(other).model
    assert torch.equal(other(X), before)
    fold_mean_only_batch_norm(other)
    for model in (one, other):
        assert torch.equal(model(X), before)
        assert [*dict(model.named_parameters())] == [*dict(Branching().named_parameters())]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_copied_and_pickled_after_a_forward(again, training):
    model = trained(ours).train(training)
    y = model(X)
    other = again(model)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(X), y if not training else model(X))
    with torch.no_grad():
        model.conv.mean_only.bias.add_(1)
    assert not torch.equal(other.eval()(X), model.eval()(X))


@pytest.mark.parametrize("training", [True, False])
def test_both_modes_are_compiled(training):
    model = ours(sequential()).train(training)
    add_mean_only_batch_norm(model)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for x in (X, X + 1):
        torch.testing.assert_close(compiled(x), model(x))
    for one, other in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("after", [True, False])
def test_evaluation_is_exported_after_a_forward_and_before(after):
    model = ours(sequential()).eval()
    add_mean_only_batch_norm(model)
    if after:
        model(X)
    with torch.no_grad():
        model[0].mean_only.running_mean.add_(1)
    program = torch.export.export(model, (X,))
    torch.testing.assert_close(program.module()(X), model(X))
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(X), model(X))


def test_a_frozen_normalization_uses_its_running_mean():
    model = trained(ours)
    before = model(X)
    model.train()
    for module in model.children():
        module.mean_only.eval()
    assert torch.equal(model(X), before)


def test_initialized_models_are_centered_by_it():
    model = ours(Branching())
    add_mean_only_batch_norm(model)
    report = initialize(model, [X])
    assert all(entry.reached and entry.biases == () for entry in report.initialized), str(report)
    y = model(X)
    torch.testing.assert_close(y.var(0, unbiased=False), torch.ones(4), rtol=1e-4, atol=1e-4)


def test_linear_layers_have_their_channels_last():
    model = ours(nn.Sequential(nn.Linear(20, 5, bias=False)))
    add_mean_only_batch_norm(model)
    assert model(X).mean((0, 1)).abs().max() < 1e-5
    assert model[0].mean_only.dim == -1


def test_what_cannot_be_centered_is_named_and_left():
    with pytest.raises(KindError, match="a dict is no module"):
        add_mean_only_batch_norm({})
    with pytest.raises(KindError, match="a list is no module"):
        fold_mean_only_batch_norm([])
    with pytest.raises(KindError, match="a graph calls functions, and no layers"):
        add_mean_only_batch_norm(ours(sequential(), how="graph"))
    with pytest.raises(NothingToConvertError, match="'Sequential' has no layer with a composed weight"):
        add_mean_only_batch_norm(sequential())
    with pytest.raises(NothingToConvertError, match="'Sequential' has no layer that add_mean_only_batch_norm was"):
        fold_mean_only_batch_norm(sequential())
    model = ours(sequential())
    with pytest.raises(OptionError, match="momentum is 2"):
        add_mean_only_batch_norm(model, momentum=2)
    model[2].mean_only = 3
    with pytest.raises(OptionError, match="layer '2' already has an attribute 'mean_only'"):
        add_mean_only_batch_norm(model)
    assert model[0].bias is not None
    del model[2].mean_only
    add_mean_only_batch_norm(model)
    with pytest.raises(NothingToConvertError, match="no mean-only batch norm yet"):
        add_mean_only_batch_norm(model)
    shared = nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 4))
    shared[1].bias = shared[0].bias
    with pytest.raises(OptionError, match="layer '0' has its bias in common with another"):
        add_mean_only_batch_norm(ours(shared))


@pytest.mark.parametrize("training", [True, False])
def test_after_an_error_in_a_layer_it_is_copied_and_folded(training):
    model = ours(sequential()).train(training)
    add_mean_only_batch_norm(model)
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        model(torch.zeros(2, 7, 20))
    assert torch.equal(copy.deepcopy(model)(X), model(X))
    fold_mean_only_batch_norm(model)
    assert not any(module._forward_hooks_always_called for module in model.modules())
    assert torch.isfinite(model(X)).all()


def test_the_last_layer_of_attention_is_left_alone():
    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    nn.init.normal_(plain.self_attn.out_proj.bias)
    model, x = ours(plain).eval(), torch.randn(2, 5, 8)
    y = model(x)
    assert add_mean_only_batch_norm(model) == ("linear1", "linear2")
    torch.testing.assert_close(model(x), y)


def test_training_under_autocast_has_the_dtype_of_evaluation():
    model = ours(sequential())
    add_mean_only_batch_norm(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.train()(X).dtype == model.eval()(X).dtype == torch.bfloat16
