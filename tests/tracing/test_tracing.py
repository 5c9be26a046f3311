"""Tracing keeps all of a model, and copying shares nothing and loses nothing."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from tests.graph.snapshot import Snapshot, assert_same_outputs, contents, outputs_of, values
from tests.models import MODELS, build
from wnconvert import TracingError
from wnconvert.graph.copying import clone
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits

each_model = pytest.mark.parametrize("name", MODELS)


class _Unusual(nn.Module):
    """Non-persistent buffers, unused parts, a None parameter, constants in forward, plain attributes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        self.register_buffer("offset", torch.ones(3), persistent=False)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("nothing", None)
        self.unused = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.lonely = nn.Parameter(torch.ones(2))
        self.note = {"a": 1}

    def forward(self, x):
        return self.layer(x) + self.offset + torch.tensor([1.0, 2.0, 3.0])


class _Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@each_model
def test_tracing_keeps_outputs_modules_keys_and_tensors(name):
    model, inputs = build(name)
    before, expected, state = contents(model), outputs_of(model, inputs), values(model)
    traced = trace(model)
    assert isinstance(traced, GraphModule)
    assert contents(traced) == before
    assert all(same_bits(tensor, state[name]) for name, tensor in values(traced).items())
    assert_same_outputs(outputs_of(traced, inputs), expected)
    assert type(traced).__name__ == type(model).__name__


def test_tracing_keeps_what_forward_does_not_use():
    model = _Unusual()
    before = contents(model)
    traced = trace(model)
    assert contents(traced)["keys"] == before["keys"]
    assert contents(traced)["modules"] == before["modules"]
    assert traced.nothing is None


def test_constants_of_the_forward_are_no_keys():
    traced = trace(_Unusual())
    x = torch.ones(2, 3)
    assert torch.equal(traced(x), _with_weight(_Unusual(), traced)(x))
    assert "_tensor_constant0" not in traced.state_dict()


def _with_weight(model, other):
    model.layer.weight = other.layer.weight
    return model


def test_tracing_leaves_the_model_as_it_is():
    model = _Unusual()
    before, attributes = Snapshot(model), set(vars(model))
    trace(model)
    before.assert_same(model, graph=False)
    assert set(vars(model)) == attributes


def test_a_graph_module_is_itself():
    traced = trace(_Unusual())
    assert trace(traced) is traced


def test_the_tracer_of_a_traced_model_is_not_ours():
    assert trace(_Unusual()).graph._tracer_cls is None


def test_uses_of_buffers_are_seen():
    assert "offset" in [node.target for node in trace(_Unusual()).graph.nodes if node.op == "get_attr"]


def test_what_cannot_be_traced_is_one_clear_line_with_a_way_out():
    with pytest.raises(TracingError) as caught:
        trace(_Branching())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("'_Branching' cannot be traced: it takes a decision on a value")
    assert "convert the module itself" in message
    assert caught.value.__cause__ is not None


class _Drawing(nn.Module):
    """Draws a number that no node stands for, in every forward or without gradients alone."""

    def __init__(self, always=True):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.always = always

    def forward(self, x):
        if self.always or not torch.is_grad_enabled():
            return self.layer(x) * random.random()
        return self.layer(x)


class _TakingBack(nn.Module):
    """Puts the generator back that a part of it has drawn from."""

    def __init__(self):
        super().__init__()
        self.part = _Drawing()

    def forward(self, x):
        state = random.getstate()
        y = self.part(x)
        random.setstate(state)
        return y


@pytest.mark.parametrize(
    ("part", "opaque"),
    [(_Drawing(), "0.1"), (_Drawing(always=False), "0.1"), (_TakingBack(), "0.1.part")],
    ids=["always", "without gradients", "taken back"],
)
def test_the_very_module_that_draws_is_one_node(part, opaque):
    before = random.getstate()
    graph_module = trace(nn.Sequential(nn.Sequential(nn.Linear(3, 3), part), nn.Linear(3, 3)))
    assert list(graph_module.meta["opaque"]) == [opaque]
    assert random.getstate() == before


@each_model
def test_a_clone_has_everything_and_shares_nothing(name):
    model, inputs = build(name)
    copied = clone(model)
    Snapshot(model).assert_same(copied, graph=False)
    assert_same_outputs(outputs_of(copied, inputs), outputs_of(model, inputs))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in (*copied.parameters(), *copied.buffers())}
    assert not {id(module) for module in model.modules()} & {id(module) for module in copied.modules()}


def _instances():
    layer = nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect")
    frozen = nn.Linear(3, 4).requires_grad_(False)
    half = nn.Linear(3, 4).half()
    channels_last = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    noted = nn.Linear(3, 4)
    noted.note = {"list": [1, 2]}
    graded = nn.Linear(3, 4)
    graded(torch.ones(1, 3)).sum().backward()
    evaluating = nn.Linear(3, 4).eval()
    hooked = nn.Linear(3, 4)
    hooked.register_forward_hook(_hook)
    names = ("layer", "frozen", "half", "channels_last", "noted", "graded", "evaluating", "hooked", "bag")
    modules = (layer, frozen, half, channels_last, noted, graded, evaluating, hooked, nn.EmbeddingBag(5, 3))
    return dict(zip(names, modules, strict=True))


def _hook(*_):
    return None


@pytest.mark.parametrize("case", _instances())
def test_a_clone_of_a_plain_module_is_a_deepcopy(case):
    module = _instances()[case]
    copied, expected = clone(module), copy.deepcopy(module)
    Snapshot(expected).assert_same(copied)
    assert list(vars(copied)) == list(vars(expected))
    for name, value in vars(expected).items():
        if not name.startswith("_"):
            assert getattr(copied, name) == value
    assert list(copied._forward_hooks.values()) == list(expected._forward_hooks.values())
    for own, other in zip(copied.parameters(), expected.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        assert own.grad is None or torch.equal(own.grad, other.grad)


def test_the_attributes_of_a_clone_are_its_own():
    module = nn.Linear(3, 4)
    module.note = [1]
    copied = clone(nn.Sequential(module))
    copied[0].note.append(2)
    copied[0].register_forward_hook(_hook)
    assert module.note == [1]
    assert not module._forward_hooks


def test_a_clone_of_a_graph_module_keeps_transient_buffers_transient():
    traced = trace(_Unusual())
    Snapshot(traced).assert_same(clone(traced))
    assert "offset" not in clone(traced).state_dict()


def test_tied_weights_stay_tied_in_a_clone():
    copied = clone(build("transformer")[0])
    assert copied.head.weight is copied.tokens.weight
