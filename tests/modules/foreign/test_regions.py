"""Weights that a subclass computes in its own forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import wnconvert


class StandardizedConv2d(nn.Conv2d):
    """Written as timm writes its StdConv2d: by way of batch_norm."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CosineLinear(nn.Linear):
    """A head on the unit sphere."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight))


class NoisyLinear(nn.Linear):
    """A weight that is drawn anew in each forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.randn_like(self.weight), self.bias)


class Untraceable(nn.Module):
    """A network that takes a decision on a value."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if x.sum() < 1e9 else x


def test_a_standardized_convolution_becomes_a_plain_one() -> None:
    torch.manual_seed(0)
    first, second = StandardizedConv2d(3, 4, 3, padding=1, stride=2), StandardizedConv2d(4, 2, 1, bias=False)
    model = Untraceable(first, nn.ReLU(), second)
    x = torch.randn(1, 3, 8, 8)
    folded, report = wnconvert.fold(model)
    assert torch.equal(folded(x), model(x))
    assert [type(layer) for layer in folded.layers] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [entry.fqn for entry in report.converted] == ["layers.0.weight", "layers.2.weight"]
    assert list(folded.state_dict()) == list(model.state_dict())
    assert type(model.layers[0]) is StandardizedConv2d


def test_a_forward_that_does_more_becomes_its_graph() -> None:
    model, x = Untraceable(CosineLinear(4, 4), nn.ReLU()), torch.randn(3, 4)
    folded, report = wnconvert.fold(model)
    assert [(entry.fqn, entry.how) for entry in report.converted] == [("layers.0.weight", "graph")]
    assert isinstance(folded, Untraceable)
    assert [isinstance(layer, GraphModule) for layer in folded.layers] == [True, False]
    assert torch.equal(folded.layers[0].weight, F.normalize(model.layers[0].weight))
    assert torch.equal(folded(x), model(x))
    assert list(folded.state_dict()) == list(model.state_dict())
    assert type(model.layers[0]) is CosineLinear


def test_the_names_of_the_whole_model_choose_among_the_weights_of_a_part() -> None:
    model = Untraceable(CosineLinear(4, 4), CosineLinear(4, 4))
    folded, report = wnconvert.fold(model, selection=wnconvert.Selection(include=("layers.1.*",)))
    assert [entry.fqn for entry in report.converted] == ["layers.1.weight"]
    assert {entry.fqn: entry.reason for entry in report.skipped}["layers.0.weight"] == "not included by 'layers.1.*'"
    assert type(folded.layers[0]) is CosineLinear


def test_a_random_weight_is_kept_and_nothing_is_drawn() -> None:
    model = Untraceable(NoisyLinear(4, 4), StandardizedConv2d(1, 1, 3))
    state = torch.random.get_rng_state()
    folded, report = wnconvert.fold(model)
    assert [entry.fqn for entry in report.converted] == ["layers.1.weight"]
    assert [(entry.fqn, "random" in entry.reason) for entry in report.skipped] == [("layers.0.weight", True)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(folded.layers[0]) is NoisyLinear


def test_a_subclass_with_torchs_own_forward_needs_no_folding() -> None:
    class Renamed(nn.Linear):
        pass

    folded, report = wnconvert.fold(Untraceable(Renamed(2, 2), StandardizedConv2d(1, 1, 3)))
    assert [entry.fqn for entry in report.converted] == ["layers.1.weight"]
    assert type(folded.layers[0]) is Renamed


class ForcedNormConv2d(nn.Module):
    """Written as EDM2 writes its convolution: training also normalizes the stored weight, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def normalized(self) -> Tensor:
        norm = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        return self.weight / (1e-4 + norm / 27**0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(self.normalized())
        return F.conv2d(x, self.normalized() / 27**0.5)


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_that_does_something_else_in_training_is_kept(training: bool) -> None:
    """A graph of one mode alone would be wrong in the other."""
    torch.manual_seed(0)
    model = nn.Sequential(ForcedNormConv2d(), nn.ReLU()).train(training)
    before = model[0].weight.clone()
    with pytest.raises(wnconvert.NothingToConvertError, match=r"0\.weight: 'ForcedNormConv2d' cannot be traced"):
        wnconvert.fold(model)
    assert torch.equal(model[0].weight, before)


class Codebook(nn.Module):
    """A quantizer that compares with normalized codes and returns the codes themselves, as DAC's does."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        index = F.linear(F.normalize(x), F.normalize(self.codes.weight)).argmax(1)
        return self.codes(index)


def test_what_would_get_a_key_of_its_own_is_left_alone() -> None:
    model, x = Untraceable(Codebook(), nn.Linear(4, 4)), torch.randn(3, 4)
    keys = list(model.state_dict())
    folded, report = wnconvert.fold(model)
    assert {entry.fqn: entry.reason for entry in report.skipped}["layers.0.codes.weight"] == (
        "what it is computed from is read elsewhere too, so that folding would add a key"
    )
    assert list(folded.state_dict()) == keys
    assert type(folded.layers[0]) is Codebook
    assert torch.equal(folded(x), model(x))
