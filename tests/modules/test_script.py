"""TorchScript modules inside of a model are left alone, and nothing fails because of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from tests.weights.nets import One, param
from wnconvert import ApplyPass, FoldPass, Selection
from wnconvert.graph.entries import Entries
from wnconvert.graph.whole import WholeGraphModule
from wnconvert.modules.foreign.reparametrized import fold_reparametrized
from wnconvert.modules.foreign.wrappers import fold_wrappers
from wnconvert.modules.guards import check
from wnconvert.modules.inplace import fold_in_place
from wnconvert.modules.wrapped import make_ready, reason_against_apply, reasons_against_fold

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) * self.scale


def scripted(module: nn.Module) -> nn.Module:
    return torch.jit.script(module)


def traced(module: nn.Module) -> nn.Module:
    return torch.jit.trace(module, X)


each_way = pytest.mark.parametrize("way", [scripted, traced])


@each_way
def test_their_tensors_are_told_apart(way) -> None:
    entries = Entries(nn.Sequential(way(Tied()), nn.Linear(3, 3)))
    assert [owner.fqn for owner in entries.owners(entries.tensors["0.b.weight"])] == ["0.a.weight", "0.b.weight"]
    assert list(entries.tensors)[-2:] == ["1.weight", "1.bias"]


@each_way
def test_folding_live_modules_leaves_them_alone(way) -> None:
    model = nn.Sequential(way(Tied()), parametrizations.weight_norm(nn.Linear(3, 3))).eval()
    expected = model(X)
    report = (
        fold_in_place(model, Selection())
        + fold_reparametrized(model, Selection())
        + fold_wrappers(model, Selection())[1]
    )
    assert [entry.fqn for entry in report.converted] == ["1.weight"]
    assert torch.equal(model(X), expected)
    assert check(model) == ()
    assert reason_against_apply(model) is None
    assert reasons_against_fold(model) == {}
    make_ready(model)


@pytest.mark.parametrize("api", [weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_what_was_normalized_before_it_was_compiled_stays_so(api) -> None:
    model = nn.Sequential(traced(api(nn.Linear(3, 3)).eval()), api(nn.Linear(3, 3))).eval()
    expected, keys = model(X), list(model[0].state_dict())
    assert [entry.fqn for entry in fold_reparametrized(model, Selection()).converted] == ["1.weight"]
    assert list(model[0].state_dict()) == keys
    assert torch.equal(model(X), expected)


def graph_of(model: nn.Module) -> WholeGraphModule:
    """Trace a model with its TorchScript modules as nodes."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, torch.jit.ScriptModule) or super().is_leaf_module(m, module_qualified_name)

    return WholeGraphModule(model, Tracer().trace(model))


@each_way
def test_passes_leave_them_alone(way) -> None:
    model = graph_of(nn.Sequential(nn.Linear(3, 3), way(Tied()), nn.Linear(3, 3)).eval())
    expected, keys = model(X), list(model.state_dict())
    report = ApplyPass().call(model).report
    assert [entry.fqn for entry in report.converted] == ["0.weight", "2.weight"]
    assert torch.equal(model(X), expected)
    FoldPass().call(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("called", [False, True])
def test_a_weight_that_one_of_them_holds_too_is_not_applied_to(called) -> None:
    model = One(lambda self, x: self.fc(self.script(x) if called else x), fc=nn.Linear(3, 3))
    model.script = scripted(nn.Sequential(model.fc))
    report = ApplyPass().call(graph_of(model)).report
    assert not report.modified
    reasons = {entry.fqn: entry.reason for entry in report.skipped}
    assert ("also read inside 'script'" if called else "the TorchScript module 'script.0'") in reasons["fc.weight"]


@pytest.mark.parametrize("target", ["script.a.weight", "script._c"])
def test_an_expression_that_one_of_them_takes_part_in_is_not_folded(target) -> None:
    graph = torch.fx.Graph()
    x, w, theirs = graph.placeholder("x"), graph.get_attr("w"), graph.create_node("get_attr", target)
    graph.output(graph.call_function(F.linear, (x, graph.call_function(torch.mul, (w, theirs)))))
    model = WholeGraphModule(One(None, w=param(3, 3), script=scripted(Tied())), graph)
    (skipped,) = FoldPass().call(model).report.skipped
    assert skipped.reason.startswith(f"it is computed from {target!r}, which ")
