"""Names of modules that look like something else to a program that reads texts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from wnconvert import Selection, Why


class Named(nn.Module):
    """Two modules in a row, of which the first has a name of the test's choice."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, module)
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(getattr(self, self.name)(x))


class Product(nn.Module):
    """A weight without a name of its own, which cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(4, 4)), nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.dropout(self.a @ self.b, 0.5, True))


def whys(report: wnconvert.Report) -> list[tuple[str, Why]]:
    return [(entry.fqn, entry.reason.why) for entry in report.skipped]


def test_what_is_inside_of_a_module_called_already_is_not_in_the_wanted_state() -> None:
    graph_module = opaque_first(Named("already", nn.Sequential(nn.Linear(4, 4))))
    report = wnconvert.ApplyPass("weight_norm").call(graph_module).report
    assert whys(report) == [("already.0.weight", Why.OPAQUE)]
    assert not report.skipped[0].already


def opaque_first(model: nn.Module) -> torch.fx.GraphModule:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    return torch.fx.GraphModule(model, Tracer().trace(model))


@pytest.mark.parametrize("how", ["module", "graph"])
def test_a_module_with_a_comma_in_its_name_is_reported_once(how: wnconvert.api.How) -> None:
    model = Named("a, b", nn.Linear(4, 4))
    report = wnconvert.apply(model, how=how, selection=Selection(exclude=("a, b",))).report
    assert whys(report) == [("a, b.weight", Why.NOT_CHOSEN)]
    assert whys(wnconvert.fold(model, how=how).report) == [
        ("a, b.weight", Why.ALREADY_PLAIN),
        ("last.weight", Why.ALREADY_PLAIN),
    ]


@pytest.mark.parametrize("how", ["module", "graph"])
def test_a_weight_without_a_name_is_reported_once_in_a_module_with_a_comma_in_its_name(how: wnconvert.api.How) -> None:
    report = wnconvert.fold(Named("a, b", Product()), how=how).report
    assert whys(report) == [("a, b.a, a, b.b", Why.RANDOM), ("last.weight", Why.ALREADY_PLAIN)]
    assert report.skipped[0].keys == ("a, b.a", "a, b.b")


class Generated(nn.Module):
    """A layer whose weight another layer makes, and a recurrent one that no graph looks into."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.seed = nn.Linear(4, 16), nn.Parameter(torch.rand(4))
        self.rnn, self.cell = nn.LSTM(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(F.linear(x, self.generator(self.seed).view(4, 4)))
        return self.cell(x)


def test_each_weight_is_reported_once_by_who_looks_closest() -> None:
    report = wnconvert.apply(Generated(), how="graph").report
    assert [entry.fqn for entry in report.converted] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert dict(whys(report)) == {
        "generator.weight": Why.FEEDS_WEIGHT,
        "seed": Why.ALREADY_COMPUTED,
        "cell.weight": Why.ALREADY_COMPUTED,
    }
    assert len(report.skipped) == 3
    alone = wnconvert.ApplyPass().call(wnconvert.trace(Generated())).report
    assert {entry.fqn for entry in alone.skipped if entry.reason.why is Why.OPAQUE} >= {"rnn.weight_ih_l0"}


class Sum(nn.Module):
    """A weight without a name of its own, which can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(4, 4)), nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.a + self.b)


@pytest.mark.parametrize("how", ["module", "graph"])
@pytest.mark.parametrize("glob", ["inner", "inner.a", "inner.b"])
def test_a_weight_without_a_name_is_chosen_by_the_names_of_what_it_is_computed_from(
    glob: str, how: wnconvert.api.How
) -> None:
    model = Named("inner", Sum())
    assert len(wnconvert.fold(model, how=how, selection=Selection(include=(glob,))).report.converted) == 1
    report = wnconvert.fold(model, how=how, selection=Selection(exclude=(glob,))).report
    assert whys(report)[0] == ("inner.a, inner.b", Why.NOT_CHOSEN)


def test_a_parameter_that_is_named_after_a_weight_is_no_part_of_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight_extra = nn.Parameter(torch.rand(4, 4))
    graph_module = wnconvert.apply(model, how="graph").model
    again = wnconvert.apply(graph_module).report
    assert whys(again) == [("0.weight", Why.ALREADY_COMPUTED), ("0.weight_extra", Why.UNREAD)]
