"""The promises of exactness on a CUDA device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.helpers import DTYPES, assert_same_bits, variant_id, variants
from wnconvert.scheme import Scheme

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PRESERVING = [scheme for scheme in variants() if scheme.preserving]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 8, 4, stride=2)
        self.head = nn.Linear(8, 7)

    def forward(self, index: Tensor) -> Tensor:
        hidden = self.up(self.conv(self.embed(index).transpose(1, 2)).relu())
        return self.head(hidden.transpose(1, 2))


def network(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Network().to("cuda", dtype).eval(), torch.arange(14, device="cuda").reshape(2, 7) % 7


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
def test_apply_and_fold_keep_every_bit(scheme: Scheme, dtype: torch.dtype) -> None:
    model, x = network(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    converted, report = wnconvert.apply(model, scheme)
    assert len(report.converted) == 4
    assert torch.equal(converted(x), model(x))
    folded, _ = wnconvert.fold(converted)
    assert list(folded.state_dict()) == list(before)
    for name, tensor in folded.state_dict().items():
        assert_same_bits(tensor, before[name])
    assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
def test_autocast_changes_no_bit(scheme: Scheme, dtype: torch.dtype, half: torch.dtype) -> None:
    model, x = network(dtype)
    converted, _ = wnconvert.apply(model, scheme)
    with torch.autocast("cuda", half):
        assert torch.equal(converted(x), model(x))


@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_fold_gives_the_bits_of_the_forward(scheme: Scheme) -> None:
    model, x = network()
    converted, _ = wnconvert.apply(model, scheme)
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        converted.train()(x).square().mean().backward()
        optimizer.step()
    folded, _ = wnconvert.fold(converted.eval())
    assert torch.equal(folded(x), converted(x))


@pytest.mark.parametrize("make", [lambda: nn.LSTM(8, 16, 2), lambda: nn.GRU(8, 16, bidirectional=True)])
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk:UserWarning")
def test_recurrent_weights_are_flat_again_after_fold(make: object) -> None:
    torch.manual_seed(0)
    model = make().cuda().eval()  # type: ignore[operator]
    x = torch.randn(5, 2, 8, device="cuda")
    expected = model(x)[0]
    converted, _ = wnconvert.apply(model)
    torch.testing.assert_close(converted(x)[0], expected)
    folded, _ = wnconvert.fold(converted)
    assert torch.equal(folded(x)[0], expected)
    storages = {weight.untyped_storage().data_ptr() for weight in folded._flat_weights}
    assert len(storages) == 1


def test_moving_between_devices_keeps_the_function() -> None:
    model, x = network()
    converted, _ = wnconvert.apply(copy.deepcopy(model).cpu())
    torch.testing.assert_close(converted.cuda()(x), model(x))


def test_compile() -> None:
    model, x = network()
    converted, _ = wnconvert.apply(model)
    torch.testing.assert_close(torch.compile(converted, fullgraph=True)(x), model(x))
