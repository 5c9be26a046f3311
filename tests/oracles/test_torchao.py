"""torchao: `quantize_`, and the quantizers of exported graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.oracles.quantized import CASES, folded, inputs, normalized, plain

pytest.importorskip("torchao")
pytestmark = [
    pytest.mark.oracle,
    # of torch and torchao about each other
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LINEAR = [case for case in CASES if case.startswith("linear")]
CONFIGS = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")


def quantized(model: nn.Module, config: str) -> nn.Module:
    import torchao.quantization

    torchao.quantization.quantize_(model, getattr(torchao.quantization, config)())
    return model


def count(model: nn.Module) -> int:
    """Return how many weights torchao holds."""
    from torchao.utils import TorchAOBaseTensor

    return sum(isinstance(tensor, TorchAOBaseTensor) for tensor in model.parameters())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", LINEAR)
def test_quantize_takes_every_folded_layer(case: str, config: str) -> None:
    expected, actual = quantized(plain(case), config), quantized(folded(case), config)
    assert count(actual) == count(expected) == 2
    assert torch.equal(actual(inputs(case)), expected(inputs(case)))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", LINEAR)
def test_quantize_fails_on_a_normalized_layer_or_passes_it_over(case: str, config: str) -> None:
    if case.endswith("graph"):
        assert count(quantized(normalized(case), config)) == 0
    else:
        with pytest.raises(KeyError, match="attribute 'weight' already exists"):
            quantized(normalized(case), config)


@pytest.mark.parametrize("config", CONFIGS)
def test_quantize_passes_over_convolutions_also_plain_ones(config: str) -> None:
    case = "vocoder, parametrized"
    assert count(quantized(plain(case), config)) == count(quantized(folded(case), config)) == 0


def converted(model: nn.Module, case: str) -> Any:
    """Return a model exported and quantized as for inductor on x86."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (inputs(case),)).module(), quantizer)
    prepared(inputs(case))
    return convert_pt2e(prepared)


def dequantized(graph_module: Any) -> list[str]:
    """Return the ops whose weight is held as int8."""
    return [
        str(node.target).split(".")[1]
        for node in graph_module.graph.nodes
        if len(node.args) > 1 and "dequantize_per_channel" in str(getattr(node.args[1], "target", ""))
    ]


#: X86InductorQuantizer knows no transposed convolution, and leaves the convolution after one in float, plain ones too
TAKEN = {"linear": ["linear", "linear"], "vocoder": ["conv1d"]}


@pytest.mark.parametrize("case", CASES)
def test_pt2e_takes_every_folded_layer(case: str) -> None:
    expected, actual = converted(plain(case), case), converted(folded(case), case)
    assert dequantized(actual) == dequantized(expected) == TAKEN[case.split(", ")[0]]
    assert torch.equal(actual(inputs(case)), expected(inputs(case)))


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith("in place")])
def test_pt2e_silently_leaves_all_normalized_layers_in_float(case: str) -> None:
    assert dequantized(converted(normalized(case), case)) == []
