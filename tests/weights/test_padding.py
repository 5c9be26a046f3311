"""The padding row of an embedding gets no gradient; it must not move because the others do."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.helpers import label, variant_id, variants
from wnconvert.modules.inplace import apply_in_place
from wnconvert.passes.apply import ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.scheme import Scheme
from wnconvert.tracing.tracing import trace

EVERY = wnconvert.Selection()
PAD = 2
IDS = torch.tensor([[0, 1, 2, 3], [4, 2, 2, 5], [1, 0, 3, 3]])

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "sgd with decay": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
}
each_way = pytest.mark.parametrize("way", ["graph", "in place"])


class Called(nn.Module):
    """A parameter of its own that a function reads."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.call = call

    def forward(self, ids: Tensor) -> Tensor:
        return self.call(ids, self.weight)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "embedding": lambda: nn.Embedding(6, 4, padding_idx=PAD),
    "embedding_bag": lambda: nn.EmbeddingBag(6, 4, padding_idx=PAD),
}
CALLS: dict[str, Callable[[], nn.Module]] = {
    "F.embedding": lambda: Called(lambda ids, w: F.embedding(ids, w, PAD)),
    "F.embedding, from the end": lambda: Called(lambda ids, w: F.embedding(ids, w, padding_idx=PAD - 6)),
    "F.embedding_bag": lambda: Called(lambda ids, w: F.embedding_bag(ids, w, padding_idx=PAD - 6)),
    "torch.embedding": lambda: Called(lambda ids, w: torch.embedding(w, ids, PAD)),
    "aten": lambda: Called(lambda ids, w: torch.ops.aten.embedding.default(w, ids, PAD)),
}


def embedding(make: Callable[[], nn.Module], row: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """An embedding and a layer over it, with the given kind of padding row."""
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        weight = model[0].weight
        if row == "zero, with a zero column":
            weight[:, 1] = 0
        if row == "all zero":
            weight.zero_()
        weight[PAD] = {"one": 1.0, "any": torch.randn(4, dtype=dtype)}.get(row, 0.0)
    return model


def converted(model: nn.Module, scheme: Scheme, way: str, dim: object) -> tuple[nn.Module, wnconvert.Report]:
    model = copy.deepcopy(model)
    if way == "in place":
        return model, apply_in_place(model, scheme, dim, EVERY)  # type: ignore[arg-type]
    result = ApplyPass(scheme, dim=dim, selection=EVERY).call(trace(model))  # type: ignore[arg-type]
    return result.graph_module, result.report


def table(model: nn.Module) -> Tensor:
    """The plain weight that a model computes with."""
    if isinstance(model, torch.fx.GraphModule):
        model = FoldPass().call(copy.deepcopy(model)).graph_module
    return model.get_submodule("0").weight.detach().clone()  # type: ignore[operator,union-attr]


def train(model: nn.Module, optimizer: str) -> None:
    chosen = OPTIMIZERS[optimizer](model.parameters())
    model.train()
    for _ in range(3):
        chosen.zero_grad()
        (model(IDS) - 1).square().sum().backward()
        chosen.step()
    model.eval()


def assert_padding_stays(make: Callable[[], nn.Module], scheme: Scheme, way: str, dim: object, row: str) -> bool:
    """Train as the plain model and compare; return whether the embedding was converted at all."""
    model = embedding(make, row)
    ours, report = converted(model, scheme, way, dim)
    if not any(entry.fqn == "0.weight" for entry in report.converted):
        (skipped,) = (entry for entry in report.skipped if entry.fqn == "0.weight")
        assert skipped.reason == f"its padding, row {PAD}, would not stay as it is under {scheme.name} with this dim"
        return False
    ours_before, model_before = table(ours), table(model)
    before, plain_before = ours_before[PAD], model_before[PAD]
    if scheme.preserving or not plain_before.any():
        assert torch.equal(before, plain_before)
    for optimizer in OPTIMIZERS:
        plain, trained = copy.deepcopy(model), copy.deepcopy(ours)
        train(plain, optimizer)
        train(trained, optimizer)
        plain_after, trained_after = table(plain), table(trained)
        assert not torch.equal(plain_after[0], model_before[0])
        assert not torch.equal(trained_after[0], ours_before[0])
        if torch.equal(plain_after[PAD], plain_before):
            assert torch.equal(trained_after[PAD], before), optimizer
    return True


def every_padding() -> Iterator[tuple[Any, ...]]:
    """Yield each scheme with each dim and row; graphs and live modules, which ask the same code, take turns."""
    rows = ["zero", "any", "zero, with a zero column", "all zero"]
    for number, (dim, row) in enumerate(itertools.product([0, 1, None], rows)):
        for turn, scheme in enumerate(variants(), number):
            yield scheme, "graph" if scheme.shared or turn % 2 else "in place", dim, row


@pytest.mark.parametrize(("scheme", "way", "dim", "row"), list(every_padding()), ids=label)
def test_a_padding_row_stays(scheme, way, dim, row):
    done = assert_padding_stays(MODULES["embedding"], scheme, way, dim, row)
    if scheme.name == "weight_norm" and (dim == 0 or row == "zero"):
        assert done
    if scheme.name in ("spectral_norm", "sigma_reparam", "network_norm") and row in ("zero", "any"):
        assert done == (row == "zero")


@each_way
def test_a_constant_padding_row_stays(way):
    # nothing but a constant in it: no scheme that subtracts the mean may divide by what is left
    for scheme in variants():
        if not (scheme.shared and way == "in place"):
            assert_padding_stays(MODULES["embedding"], scheme, way, 0, "one")


@pytest.mark.parametrize("row", ["zero", "any"])
@each_way
def test_a_padding_row_of_a_bag_stays(way, row):
    for dim in (0, 1, None):
        assert_padding_stays(MODULES["embedding_bag"], wnconvert.WeightNorm(), way, dim, row)


@pytest.mark.parametrize("scheme", [wnconvert.WeightNorm(), wnconvert.WeightStandardization()], ids=variant_id)
@pytest.mark.parametrize("name", CALLS)
def test_a_padding_row_that_a_function_names_stays(scheme, name):
    assert assert_padding_stays(CALLS[name], scheme, "graph", 0, "any")
    assert not assert_padding_stays(CALLS[name], scheme, "graph", 1, "any")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Embedding(6, 4),
        lambda: Called(lambda ids, w: F.embedding(ids, w)),
        lambda: Called(lambda ids, w: torch.embedding(w, ids, -1)),
        lambda: Called(lambda ids, w: F.embedding(ids, w, PAD) + F.embedding(ids, w)),
        lambda: Called(lambda ids, w: F.embedding(ids, w, PAD) @ w.t() @ w),
    ],
)
def test_without_padding_every_row_is_trained_and_so_converted(make):
    model = embedding(make, "one")
    _, report = converted(model, wnconvert.WeightNorm(), "graph", None)
    assert [entry.fqn for entry in report.converted] == ["0.weight", "1.weight"]


@each_way
def test_a_tied_output_layer_trains_the_padding_too(way):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4, padding_idx=PAD)
            self.head = nn.Linear(4, 6)
            self.head.weight = self.embed.weight
            nn.init.normal_(self.head.weight)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    _, report = converted(Tied(), wnconvert.WeightNorm(), way, None)
    assert [entry.fqn for entry in report.converted] == ["embed.weight"]


def test_what_is_skipped_takes_no_part_in_a_common_norm():
    model = embedding(MODULES["embedding"], "one")
    alone, _ = converted(nn.Sequential(nn.Identity(), copy.deepcopy(model[1])), wnconvert.NetworkNorm(), "graph", None)
    ours, report = converted(model, wnconvert.NetworkNorm(), "graph", None)
    assert [entry.fqn for entry in report.converted] == ["1.weight"]
    assert torch.equal(ours.get_parameter("network_g"), alone.get_parameter("network_g"))


@pytest.mark.parametrize("scheme", [scheme for scheme in variants() if scheme.preserving], ids=variant_id)
def test_without_data_the_padding_counts_as_zero(scheme):
    for dim in (0, None):
        reports = [
            converted(embedding(MODULES["embedding"], "zero").to(device), scheme, "graph", dim)[1]
            for device in ("cpu", "meta")
        ]
        assert reports[0].skipped == reports[1].skipped
