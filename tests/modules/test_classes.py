"""What classes tell of the parameters of their modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm

import wnconvert
from tests.modules.making import Untraceable
from wnconvert.graph.entries import Entries
from wnconvert.modules.classes import LiveWeight, Role, live_weights, role_of


def found(model: nn.Module, paths: set[str] | None = None) -> dict[str, LiveWeight]:
    return {weight.info.fqn: weight for weight in live_weights(Entries(model), paths)}


@pytest.mark.parametrize(
    ("module", "name", "role"),
    [
        (nn.Linear(3, 2), "weight", Role(("linear",), (0,))),
        (nn.Linear(3, 2), "bias", None),
        (nn.Linear(3, 2), "missing", None),
        (nn.ConvTranspose2d(4, 6, 3, groups=1), "weight", Role(("conv_transpose2d",), (1,))),
        (nn.LazyLinear(2), "weight", Role(("linear",), None)),
        (type("Derived", (nn.Conv1d,), {})(2, 2, 3), "weight", Role(("conv1d",), (0,))),
        (nn.LSTM(3, 4), "weight_hh_l0", Role(("lstm",), (0,))),
        (nn.LSTM(3, 4), "bias_hh_l0", None),
        (nn.RNNCell(3, 4), "weight_ih", Role(("rnn",), (0,))),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", Role(("attention",), (0,))),
        (nn.MultiheadAttention(4, 2, bias=True), "in_proj_bias", None),
        (nn.LayerNorm(4), "weight", None),
    ],
)
def test_the_role_of_a_parameter(module, name, role) -> None:
    assert role_of(module, name) == role


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_compiled_code_has_no_weights_to_choose_from() -> None:
    compiled = torch.jit.script(nn.Linear(3, 2))
    assert role_of(compiled, "weight") is None
    assert list(found(nn.Sequential(compiled, nn.Linear(2, 2)))) == ["1.weight"]


def test_a_tied_weight_is_found_once_with_what_it_is_to_all() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 5), "head": nn.Linear(5, 5), "up": nn.ConvTranspose1d(5, 5, 1)})
    model["head"].weight = model["embed"].weight
    weights = found(model)
    assert list(weights) == ["embed.weight", "up.weight"]
    info = weights["embed.weight"].info
    assert (info.ops, info.aliases) == (("embedding", "linear"), ("head.weight",))
    # an embedding is indexed by its last dim
    assert info.output_dims is None


def test_a_parameter_that_no_class_explains_is_a_weight_without_a_role() -> None:
    model = nn.Module()
    model.matrix, model.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    model.counts = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    model.register_buffer("table", torch.ones(2, 2))
    weights = found(model)
    assert list(weights) == ["matrix"]
    assert weights["matrix"].role is None


def test_parts_of_computed_weights_are_no_weights() -> None:
    assert list(found(nn.Sequential(weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2)))) == ["1.weight"]


def test_only_what_some_modules_hold_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(found(model, {"1", "2"})) == ["1.0.weight", "2.weight"]
    model[2].weight = model[0].weight
    # by one of its owners at least
    assert list(found(model, {"2"})) == ["0.weight"]


def test_transformers_linear_layers_keep_their_output_dim() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model, x = Untraceable(), torch.randn(2, 3)
    model.add_module("extra", conv1d(5, 3))
    converted, report = wnconvert.apply(model, dim="output", selection=wnconvert.Selection(include=("extra",)))
    assert [(entry.fqn, entry.dims) for entry in report.converted] == [("extra.weight", (0,))]
    assert torch.equal(converted.extra(x), model.extra(x))
