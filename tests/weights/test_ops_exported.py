"""Weights are found in what torch.export makes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.weights.rows import aten
from wnconvert import ApplyPass, FoldPass, find_weighted_ops
from wnconvert.weights import ops


class _Exported(nn.Module):
    """Every weighted module once, and the products of parameters, on inputs of one batch."""

    def __init__(self):
        super().__init__()
        self.linear, self.bilinear = nn.Linear(6, 5), nn.Bilinear(6, 5, 4)
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(2, 4, 3), nn.Conv2d(2, 4, 3, padding="same"), nn.Conv3d(2, 3, 2)
        self.up1, self.up2 = nn.ConvTranspose1d(4, 2, 3, stride=2), nn.ConvTranspose2d(4, 2, 2, groups=2)
        self.up3 = nn.ConvTranspose3d(3, 2, 2)
        self.embedding, self.bag = nn.Embedding(7, 6), nn.EmbeddingBag(7, 6, mode="sum")
        self.w = nn.Parameter(torch.randn(6, 5))
        self.b = nn.Parameter(torch.randn(2, 6, 3))
        self.e = nn.Parameter(torch.randn(5, 6))
        self.m = nn.Parameter(torch.randn(5))

    def forward(self, ids, image):
        x = self.embedding(ids) + self.bag(ids).unsqueeze(1)
        y = self.linear(x)
        z = self.bilinear(x, y)
        image = self.up2(self.conv2(image))
        flat = self.up1(self.conv1(image.flatten(2)))
        deep = self.up3(self.conv3(image.unsqueeze(2).expand(-1, -1, 3, -1, -1)))
        return (
            y,
            z,
            image,
            flat,
            deep,
            x @ self.w,
            torch.bmm(x, self.b),
            torch.einsum("bni,oi->bno", x, self.e),
            torch.addmm(y[0], x[0], self.w),
            torch.mv(y[0], self.m),
        )


WEIGHTS = {
    *(f"{name}.weight" for name in ("linear", "bilinear", "conv1", "conv2", "conv3", "up1", "up2", "up3")),
    *("embedding.weight", "bag.weight", "w", "b", "e", "m"),
}


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    inputs = (torch.tensor([[1, 3, 0], [2, 2, 4]]), torch.randn(2, 2, 6, 6))
    return torch.export.export(_Exported(), inputs), inputs


@pytest.fixture(params=["as exported", "decomposed"])
def exported(request, program):
    exported_program, inputs = program
    if request.param == "decomposed":
        exported_program = exported_program.run_decompositions()
    return exported_program.module(), inputs


def test_every_weight_of_an_exported_program_is_found(exported):
    model, _ = exported
    # decomposing writes a product with a vector as a multiplication and a sum, which is no weighted op
    decomposed = any(node.target is aten.convolution.default for node in model.graph.nodes)
    assert {weight.fqn for weight in find_weighted_ops(model)} == WEIGHTS - ({"m"} if decomposed else set())


def test_an_exported_program_is_converted_to_the_bit_and_folded_to_the_very_same_graph(exported):
    model, inputs = exported
    model = copy.deepcopy(model)
    before, expected = Snapshot(model), outputs_of(model, inputs)
    report = ApplyPass().call(model).report
    assert len(report.converted) >= len(WEIGHTS) - 1
    assert_same_outputs(outputs_of(model, inputs), expected)
    FoldPass().call(model)
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, inputs), expected)


@pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights:UserWarning")  # of export itself
@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
        nn.LSTM(3, 4, bias=False, proj_size=2),
        nn.GRU(3, 4, 2, batch_first=True),
        nn.RNN(3, 4, bias=False),
        nn.RNN(3, 4, nonlinearity="relu", bidirectional=True),
    ],
    ids=str,
)
def test_the_weights_of_recurrent_layers_are_found_and_their_biases_are_not(layer):
    model = torch.export.export(layer, (torch.linspace(-1, 1, 24).view(2, 4, 3),)).module()
    weights = {name for name, _ in model.named_parameters() if "weight" in name}
    found = find_weighted_ops(model)
    assert {weight.fqn for weight in found} == weights
    assert all(weight.output_dims == (0,) for weight in found)
    # of these kernels some are chosen by whether a weight needs gradients, which what is composed does not
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert len(ApplyPass().call(model).report.converted) == len(weights)
    FoldPass().call(model)
    for name, value in model.named_parameters():
        assert torch.equal(value, expected[name])


class _Standardized(nn.Conv2d):
    """As in timm: by a batch norm over the weight, of whose results one is read."""

    def forward(self, x):
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(weight, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_a_weight_that_is_one_of_several_results_is_folded():
    inputs = (torch.linspace(-1, 1, 75).view(1, 3, 5, 5),)
    file = io.BytesIO()
    torch.export.save(torch.export.export(_Standardized(3, 4, 3), inputs).run_decompositions(), file)
    # reading it back, torch gives each of the other results a node, which nothing reads
    model = torch.export.load(io.BytesIO(file.getvalue())).module()
    expected = outputs_of(model, inputs)
    report = FoldPass().call(model).report
    assert [entry.fqn for entry in report.converted] == ["weight"]
    assert not any("batch_norm" in node.name for node in model.graph.nodes)
    assert_same_outputs(outputs_of(model, inputs), expected)


class _Reparametrized(nn.Module):
    """Torch's own norms: in both spellings, with a second weight in the module, and over what pruning left."""

    def __init__(self):
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv1d(2, 4, 3))
        self.spectral = parametrizations.spectral_norm(nn.Conv1d(4, 4, 3), n_power_iterations=1)
        self.pruned = prune.l1_unstructured(nn.Conv1d(4, 4, 3), "weight", 0.3)
        self.both = parametrizations.weight_norm(parametrizations.weight_norm(nn.Bilinear(4, 4, 3)), "bias", dim=None)

    def forward(self, x):
        x = self.pruned(self.spectral(self.first(x))).transpose(1, 2)
        return self.both(x, x)


@pytest.mark.filterwarnings("ignore:The tensor attribute self.pruned.weight was assigned:UserWarning")
@pytest.mark.parametrize("decomposed", [False, True])
def test_a_folded_weight_has_the_key_of_the_plain_model_and_not_of_what_it_was_computed_from(decomposed):
    torch.manual_seed(0)
    model, inputs = _Reparametrized().eval(), (torch.randn(2, 2, 12),)
    program = torch.export.export(model, inputs)
    graph_module = (program.run_decompositions() if decomposed else program).module()
    expected = outputs_of(graph_module, inputs)
    FoldPass().call(graph_module)
    assert_same_outputs(outputs_of(graph_module, inputs), expected)
    parts = {f"both.parametrizations.bias.original{number}" for number in range(2)}
    plain = {f"{name}.{key}" for name in ("first", "spectral", "pruned", "both") for key in ("weight", "bias")}
    # a bias is no weight of the op, and stays computed
    assert set(graph_module.state_dict()) == (plain | parts) - {"both.bias"}
    assert not hasattr(graph_module.first, "parametrizations")
    assert list(graph_module.both.parametrizations._modules) == ["bias"]
    assert [key for key in graph_module.state_dict() if key.startswith("first")] == ["first.weight", "first.bias"]


def test_the_overloads_that_export_makes_are_those_of_the_table(exported):
    model, _ = exported
    made = {node.target for node in model.graph.nodes if ops.known_rules().of(node)}
    assert len(made) >= 5
    assert all(isinstance(target, torch._ops.OpOverload) for target in made)
