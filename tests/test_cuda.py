"""The promises of exactness on a CUDA device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.cli.conftest import report, run
from tests.helpers import DTYPES, assert_same_bits, variant_id, variants
from tests.models import Network
from wnconvert import checkpoint
from wnconvert.device import resolve_device
from wnconvert.scheme import Scheme

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PRESERVING = [scheme for scheme in variants() if scheme.preserving]


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


def test_the_device_of_a_file_is_named() -> None:
    device = resolve_device("cuda")
    assert device.where == torch.device("cuda", torch.cuda.current_device())
    assert device.name == f"{device.where} ({torch.cuda.get_device_name()})"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_file_is_folded_to_the_bits_of_the_model_there(dtype: torch.dtype, tmp_path: Path) -> None:
    layers = (nn.Linear(300, 70), nn.Conv2d(16, 24, 3), nn.ConvTranspose1d(64, 48, 5))
    model = nn.ModuleList([nn.utils.parametrizations.weight_norm(layer) for layer in layers]).to("cuda", dtype)
    with torch.no_grad():
        for layer in model:
            layer.parametrizations.weight.original0.mul_(1.37)
    torch.save(model.state_dict(), tmp_path / "parts.pt")
    conversion = checkpoint.fold(checkpoint.load(tmp_path / "parts.pt"), device="cuda")
    folded, _ = wnconvert.fold(model)
    for name, tensor in folded.state_dict().items():
        assert_same_bits(conversion.checkpoint.content[name].clone(), tensor.cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
def test_a_file_is_split_for_the_device(
    scheme: Scheme, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(network(dtype)[0].state_dict(), "plain.pt")
    source = checkpoint.load("plain.pt")
    kept = "default" if scheme.shared else 0
    conversion = checkpoint.apply(source, scheme, dim=kept, device="cuda")
    checkpoint.save(
        conversion.checkpoint,
        "parts.pt",
        source="plain.pt",
        verify=lambda written: checkpoint.verify_apply(source, conversion, written, device="cuda"),
    )
    back = checkpoint.fold(checkpoint.load("parts.pt"), device="cuda").checkpoint.content
    for name, tensor in source.content.items():
        assert_same_bits(back[name].clone(), tensor)


def test_commands_compute_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = resolve_device("cuda:0").name
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(300, 200)))
    torch.save(model.state_dict(), "parts.pt")
    torch.save(model, "whole.pt")
    expected, _ = wnconvert.fold(model.cuda())
    for file, more in (("parts", []), ("whole", ["--trust"])):
        entry = report(run("fold", f"{file}.pt", "--device", "cuda:0", "--json", *more))
        assert entry["device"] == name
        assert entry["notes"][0].startswith(f"weights were computed and verified on {name}")
        content = checkpoint.load(f"{file}.folded.pt", trust=bool(more)).content
        state = content.state_dict() if isinstance(content, nn.Module) else content
        assert_same_bits(state["0.weight"], expected[0].weight.cpu())
        assert not state["0.weight"].is_cuda
    assert run("verify", "parts.pt", "parts.folded.pt", "--device", "cuda:0").code == 0
    assert run("apply", "whole.folded.pt", "--device", "cuda:0", "--trust").code == 0
    assert run("migrate", "parts.pt", "--to", "parametrization", "--device", "cuda:0").code == 0


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("fold", "parts.pt", "--device", f"cuda:{torch.cuda.device_count()}")
    assert outcome.code == 1
    assert "is not available here" in outcome.error
