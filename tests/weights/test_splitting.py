"""What splitting, for graphs and for live modules alike, promises of a weight's memory."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnconvert
from tests.covering import pairwise
from tests.helpers import DTYPES, assert_same_bits, label, variant_id, variants
from wnconvert.modules.foreign.reparametrized import fold_reparametrized
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.passes.apply import ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.scheme import Scheme
from wnconvert.tracing.tracing import trace

EVERY = wnconvert.Selection()
WAYS = ["graph", "in place"]
each_scheme = pytest.mark.parametrize("scheme", variants(), ids=variant_id)
each_way = pytest.mark.parametrize("way", WAYS)


def can(scheme: Scheme, way: str, *rest: object) -> bool:
    """Whether there is such a way: what all weights share needs a graph."""
    return not scheme.shared or way == "graph"


each_scheme_and_way = pytest.mark.parametrize(
    ("scheme", "way"), [pair for pair in itertools.product(variants(), WAYS) if can(*pair)], ids=label
)

CONVOLUTIONS = {
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 8, 8)),
    "depthwise 3d": (lambda: nn.Conv3d(4, 4, 3, groups=4), (1, 4, 5, 5, 5)),
    "1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 8, 8)),
    "one channel in": (lambda: nn.Conv2d(1, 5, 3), (2, 1, 8, 8)),
    "one channel out": (lambda: nn.Conv2d(6, 1, 3), (2, 6, 8, 8)),
    "one channel": (lambda: nn.Conv2d(1, 1, 3), (2, 1, 8, 8)),
    "plain": (lambda: nn.Conv2d(6, 5, 3), (2, 6, 8, 8)),
    "1d": (lambda: nn.Conv1d(6, 5, 3), (2, 6, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 5, 3), (2, 6, 8, 8)),
    "transposed depthwise": (lambda: nn.ConvTranspose2d(6, 6, 3, groups=6), (2, 6, 8, 8)),
    "transposed 1x1": (lambda: nn.ConvTranspose2d(6, 5, 1), (2, 6, 8, 8)),
}


def last(tensor: Tensor) -> Tensor:
    """The tensor with its channels last in memory, of whatever rank it is."""
    return tensor.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def convolution(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A convolution with its weight in channels_last, and an input of the same memory format."""
    make, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    module = make().to(dtype).eval()
    module.weight = nn.Parameter(last(module.weight.detach()))
    return nn.Sequential(module), last(torch.randn(shape).to(dtype))


def applied(model: nn.Module, scheme: Scheme, way: str, dim: object = 0) -> tuple[nn.Module, wnconvert.Report]:
    """``model``, converted, and the report."""
    if way == "in place":
        return model, apply_in_place(model, scheme, dim, EVERY)  # type: ignore[arg-type]
    result = ApplyPass(scheme, dim=dim, selection=EVERY).call(trace(model))  # type: ignore[arg-type]
    return result.graph_module, result.report


def folded(model: nn.Module, way: str) -> nn.Module:
    """``model`` with plain weights again."""
    if way == "in place":
        fold_in_place(model, EVERY)
        return model
    return FoldPass().call(model).graph_module  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scheme", "way", "name", "dtype"), pairwise(variants(), WAYS, CONVOLUTIONS, DTYPES, allowed=can), ids=label
)
def test_convolutions_with_channels_last_weights_are_exact(scheme, way, name, dtype):
    model, x = convolution(name, dtype)
    converted, report = applied(copy.deepcopy(model), scheme, way)
    assert [entry.fqn for entry in report.converted] == ["0.weight"]
    if scheme.preserving:
        assert torch.equal(converted(x), model(x))
    back, weight = folded(converted, way).get_parameter("0.weight"), model.get_parameter("0.weight")
    assert back.stride() == weight.stride()
    if scheme.preserving:
        assert_same_bits(back, weight)


@pytest.mark.parametrize(
    # compiling takes its time; what they do in both modes is tested in modules/test_compiled.py
    ("scheme", "training"),
    list(zip((scheme for scheme in variants() if not scheme.shared), itertools.cycle([False, True]))),
    ids=label,
)
def test_composed_weights_are_compiled_without_a_break(scheme, training):
    model, x = convolution("1x1")
    converted, _ = applied(model.train(training), scheme, "in place")
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(converted), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), converted(x))


@each_scheme_and_way
def test_a_linear_layer_with_a_transposed_weight_is_exact(scheme, way):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 6), torch.randn(3, 4)
    model.weight = nn.Parameter(torch.randn(4, 6).t())
    converted, report = applied(copy.deepcopy(model), scheme, way)
    assert report.converted
    if scheme.preserving:
        assert torch.equal(converted(x), model(x))
    assert folded(converted, way).get_parameter("weight").stride() == (1, 6)


ODD = {
    "gaps": torch.randn(6, 8)[:, ::2],
    "expanded": torch.randn(6, 1).expand(6, 4),
    "overlapping": torch.randn(9).as_strided((6, 4), (1, 1)),
}


@pytest.mark.parametrize(("scheme", "way", "odd"), pairwise(variants(), WAYS, ODD, allowed=can), ids=label)
def test_memory_that_no_composed_weight_has_is_skipped(scheme, way, odd):
    weight = ODD[odd]
    model = nn.Linear(4, 6)
    model.weight = nn.Parameter(weight)
    _, report = applied(model, scheme, way)
    assert [entry.reason for entry in report.skipped] == [
        f"its memory has gaps or overlaps (strides {weight.stride()}), and no composed weight's has"
    ]


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.randn(6, 4).to(torch.float8_e4m3fn), "its dtype float8_e4m3fn is none that a scheme can compute with"),
        (torch.randn(6, 4).to_sparse(), "its layout torch.sparse_coo is not strided"),
    ],
    ids=["float8", "sparse"],
)
@each_way
def test_what_no_scheme_can_compute_with_is_skipped(way, weight, reason):
    model = nn.Linear(4, 6)
    model.weight = nn.Parameter(weight)
    _, report = applied(model, wnconvert.WeightNorm(), way)
    assert [entry.reason for entry in report.skipped] == [reason]


class Careless(wnconvert.SCHEMES.get("weight_norm")):  # type: ignore[misc]
    """A scheme that takes no care of strides."""

    def compose(self, parts, spec):
        return super().compose(parts, spec).clone(memory_format=torch.contiguous_format)


@each_way
def test_a_scheme_that_forgets_strides_is_found_out(way):
    model, _ = convolution("plain")
    _, report = applied(model, Careless(), way)
    assert [entry.reason for entry in report.skipped] == ["its strides (54, 1, 18, 6) would become (54, 9, 3, 1)"]


def test_a_functional_convolution_with_an_ambiguous_weight_comes_back():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(last(torch.randn(6, 1, 3, 3)))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.w, groups=6)

    model = trace(Functional())
    before = [(node.op, node.target) for node in model.graph.nodes]
    ApplyPass().call(model)
    assert torch.slice_scatter in {node.target for node in model.graph.nodes}
    FoldPass().call(model)
    assert [(node.op, node.target) for node in model.graph.nodes] == before


@pytest.mark.parametrize(
    ("scheme", "way", "built"), pairwise(variants(), WAYS, ["before", "in inference mode"], allowed=can), ids=label
)
def test_what_is_made_in_inference_mode_can_be_trained(scheme, way, built):
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    with torch.inference_mode(built == "in inference mode"):
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
        assert model[0].weight.is_inference() == (built == "in inference mode")
    with torch.inference_mode():
        expected = model(x)
        converted, report = applied(model, scheme, way)
        if scheme.preserving:
            assert torch.equal(converted(x), expected)
    assert len(report.converted) == 2
    assert not any(tensor.is_inference() for tensor in (*converted.parameters(), *converted.buffers()))
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted.train()(x).sum().backward()
    optimizer.step()
    assert not torch.equal(converted(x), expected)
    with torch.inference_mode():
        plain = folded(converted, way)
    assert not any(tensor.is_inference() for tensor in plain.parameters())
    assert all(tensor.requires_grad for tensor in plain.parameters())
    plain(x).sum().backward()


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm])
def test_what_others_normalized_is_folded_to_normal_tensors(wrap):
    layer = wrap(nn.Linear(4, 2))
    with torch.inference_mode():
        fold_reparametrized(layer, EVERY)
    assert not layer.weight.is_inference()
    layer(torch.randn(1, 4)).sum().backward()
    assert layer.weight.grad is not None
