"""`torch.ao.quantization.quantize_dynamic`, torch's own in eager mode, which is deprecated."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized import dynamic

from tests.oracles.quantized import CASES, folded, inputs, normalized, plain

pytestmark = [
    # torch announces its removal, and that of the tensors that it makes
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif("none" in torch.backends.quantized.supported_engines[-1:], reason="torch has no engine for it"),
]

LINEAR = [case for case in CASES if case.startswith("linear")]
CONVOLUTIONS = {nn.Conv1d, nn.ConvTranspose1d}


def quantized(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-any-return, no-untyped-call]


def count(model: nn.Module) -> int:
    return sum(isinstance(each, dynamic.Linear) for each in model.modules())


@pytest.mark.parametrize("case", LINEAR)
def test_it_takes_every_folded_layer(case: str) -> None:
    expected, actual = quantized(plain(case)), quantized(folded(case))
    assert count(actual) == count(expected) == 2
    assert torch.equal(actual(inputs(case)), expected(inputs(case)))


@pytest.mark.parametrize("case", LINEAR)
def test_it_fails_on_a_normalized_layer_or_passes_it_over(case: str) -> None:
    if case.endswith("in place"):  # a Linear of another class, which it does not look for
        assert count(quantized(normalized(case))) == 0
        return
    error = AttributeError if case.endswith("graph") else AssertionError
    with pytest.raises(error, match=r"has no attribute 'weight'|from_float only works for"):
        quantized(normalized(case))


def test_it_has_no_convolutions_also_not_of_plain_models() -> None:
    for model in (plain("vocoder, parametrized"), folded("vocoder, parametrized")):
        done = torch.ao.quantization.quantize_dynamic(model, CONVOLUTIONS)  # type: ignore[no-untyped-call]
        assert [type(each) for each in done] == [type(each) for each in model]
