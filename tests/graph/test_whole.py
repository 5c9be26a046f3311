"""A traced model keeps everything that it holds, also in copies and pickles."""

from __future__ import annotations

import copy
import io
import pickletools

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from tests.graph.snapshot import Snapshot, assert_same_outputs, graph_listing, outputs_of
from wnconvert import ApplyPass, FoldPass
from wnconvert.graph.copying import clone
from wnconvert.tracing.tracing import trace


class Sharing(nn.Module):
    """A root that holds modules and tensors under two names, and what no forward reads."""

    def __init__(self):
        super().__init__()
        self.last, fc = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b, self.a = fc, fc
        self.v = self.w = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("offset", torch.ones(1), persistent=False)
        self.register_parameter("nothing", None)
        self.unused = nn.Sequential(fc, nn.Linear(2, 2))

    def forward(self, x):
        return self.last(self.b(self.a(x))) @ self.w + self.v.sum() + self.offset


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": pickled, "clone": clone}
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("state", ["traced", "applied", "folded"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_the_root_holds_is_lost(way, state):
    model = trace(Sharing().eval())
    before, listing = Snapshot(model), graph_listing(model, names=False)
    if state != "traced":
        ApplyPass().call(model)
    if state == "folded":
        FoldPass().call(model)
        before.assert_same(model)
    snapshot, expected = Snapshot(model), outputs_of(model, (X,))
    copied = WAYS[way](model)
    snapshot.assert_same(copied, graph=False)
    assert copied.a is copied.b is copied.unused[0]
    assert_same_outputs(outputs_of(copied, (X,)), expected)
    copied.load_state_dict(model.state_dict(), strict=True)
    FoldPass().call(copied)
    before.assert_same(copied, graph=False)
    assert graph_listing(copied, names=False) == listing


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_hooks_of_the_root_are_kept(way):
    model = trace(Sharing())
    model.register_forward_hook(double)
    model.register_load_state_dict_pre_hook(note)
    copied = WAYS[way](model)
    assert torch.equal(copied(X), model(X))
    assert torch.equal(model(X), 2 * model.forward(X))
    copied.load_state_dict(model.state_dict())
    assert copied.noted
    assert not hasattr(model, "noted")


def double(module, args, output):
    return 2 * output


def note(module, *args):
    module.noted = True


def test_a_pickle_names_nothing_of_ours():
    file = io.BytesIO()
    torch.save(trace(Sharing()), file, _use_new_zipfile_serialization=False)
    names = [argument for _, argument, _ in pickletools.genops(file.getvalue()) if isinstance(argument, str)]
    assert not any("wnconvert" in name for name in names)


def test_a_copy_is_independent():
    model = trace(Sharing())
    copied = copy.deepcopy(model)
    copied.extra = nn.Linear(1, 1)
    with torch.no_grad():
        copied.w.zero_()
    assert "extra" not in model._modules
    assert model.w.count_nonzero() > 0


def test_a_copy_of_a_graph_module_of_torch_is_whole_too():
    root = Sharing()
    model = GraphModule(root, torch.fx.Tracer().trace(root))
    model.add_module("again", model.b)
    model.register_buffer("transient", torch.ones(1), persistent=False)
    Snapshot(model).assert_same(clone(model), graph=False)
