"""FoldPass on expressions that others write: the models of papers, and weights that are shared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.snapshot import assert_same_outputs, outputs_of
from tests.weights.nets import X, folded, param
from wnconvert import ApplyPass, FoldPass
from wnconvert.tracing.tracing import trace


class StdConv2d(nn.Conv2d):
    """As in timm: batch norm over the weight, as a fast way to standardize it."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledStdConv2d(nn.Conv2d):
    """As in timm's normalizer-free networks: with a gain."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.7))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CosineHead(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


class DinoHead(nn.Module):
    """A bottleneck and a last layer with hand-written weight norm, its magnitude frozen at one."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(3, 4)
        self.weight_v = nn.Parameter(torch.randn(6, 4))
        self.weight_g = nn.Parameter(torch.ones(6, 1), requires_grad=False)

    def forward(self, x):
        x = F.normalize(self.mlp(x), dim=-1)
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class LoRA(nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.lora_a, self.lora_b = param(2, self.in_features), param(self.out_features, 2)

    def forward(self, x):
        return F.linear(x, self.weight + (self.lora_b @ self.lora_a) * 0.5, self.bias)


class DoRA(LoRA):
    def __init__(self, *args):
        super().__init__(*args)
        self.magnitude = param(self.out_features, 1)

    def forward(self, x):
        weight = self.weight + (self.lora_b @ self.lora_a) * 0.5
        return F.linear(x, self.magnitude * weight / weight.norm(p=2, dim=1, keepdim=True), self.bias)


FOREIGN = {
    "StdConv2d": (lambda: StdConv2d(3, 6, 3), (2, 3, 5, 5), ["0.weight", "0.bias"]),
    "ScaledStdConv2d": (lambda: ScaledStdConv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5), ["0.weight"]),
    "cosine head": (lambda: CosineHead(3, 5, bias=False), (4, 3), ["0.weight"]),
    "DINO head": (DinoHead, (4, 3), ["0.weight", "0.mlp.weight", "0.mlp.bias"]),
    "LoRA": (lambda: LoRA(3, 5), (4, 3), ["0.weight", "0.bias"]),
    "DoRA": (lambda: DoRA(3, 5), (4, 3), ["0.weight", "0.bias"]),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_an_expression_that_others_wrote_becomes_a_plain_weight(case):
    build_layer, shape, keys = FOREIGN[case]
    torch.manual_seed(0)
    # a leaf would not be traced into
    model, report = folded(nn.Sequential(build_layer(), nn.Identity()), torch.randn(shape))
    assert list(model.state_dict()) == keys
    assert len(report.converted) == 1
    # nothing is computed from parameters alone any more
    assert not FoldPass().call(model).modified


@pytest.mark.parametrize("case", FOREIGN)
def test_a_computed_weight_is_not_applied_to_but_named(case):
    build_layer, _, _ = FOREIGN[case]
    report = ApplyPass().call(trace(nn.Sequential(build_layer()))).report
    assert all("0.mlp" in entry.fqn for entry in report.converted)
    assert any(entry.already and "already computed by nodes" in entry.reason for entry in report.skipped)


def test_a_folded_expression_can_be_applied_to():
    model, _ = folded(nn.Sequential(StdConv2d(3, 6, 3)), x := torch.randn(2, 3, 5, 5))
    expected = outputs_of(model, (x,))
    assert ApplyPass().call(model).modified
    assert_same_outputs(outputs_of(model, (x,)), expected)


def test_a_module_that_is_called_twice_keeps_one_weight():
    layer = CosineHead(3, 3, bias=False)
    model, _ = folded(nn.Sequential(layer, nn.Identity(), layer), X)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert model.get_parameter("0.weight") is model.get_parameter("2.weight")
