"""One model, six routes to what is deployed: the same weights wherever torch composes them, and the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import wnconvert
from tests.exported.programs import loaded
from tests.helpers import assert_same_bits
from wnconvert.torch_private import cpp_compiler, load_compiled

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.oracle,
    # torch's exporters and inductor speak of their own future
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
    ),
]


class Vocoder(nn.Module):
    """A convolution, a transposed one, one with groups, a linear layer, and a recurrent one if it is wanted."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.pre = weight_norm(nn.Conv1d(6, 24, 5, padding=2))
        self.up = weight_norm(nn.ConvTranspose1d(24, 16, 4, stride=2, padding=1))
        self.grouped = weight_norm(nn.Conv1d(16, 16, 3, padding=1, groups=4))
        self.rnn = None
        if recurrent:
            rnn = nn.LSTM(16, 16, batch_first=True)
            self.rnn = weight_norm(weight_norm(rnn, "weight_ih_l0"), "weight_hh_l0")
        self.head = weight_norm(nn.Linear(16, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.up(self.pre(x).relu()).relu()).relu().transpose(1, 2)
        if self.rnn is not None:
            x, _ = self.rnn(x)
        return self.head(x)


#: dynamic dims: torch.export fixes the number of steps of an LSTM, of a plain one too
DYNAMIC: dict[bool, dict[int, str]] = {False: {0: "batch", 2: "time"}, True: {0: "batch"}}
X = torch.linspace(-2, 2, 2 * 6 * 5).reshape(2, 6, 5).sin()
each = pytest.mark.parametrize("recurrent", [False, True], ids=["convolutions", "recurrent"])


@cache
def model(recurrent: bool) -> nn.Module:
    """Return the model as it is after some training: its magnitudes are no norms of its directions."""
    torch.manual_seed(0)
    made = Vocoder(recurrent).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return made.requires_grad_(False)


def sizes(recurrent: bool) -> list[Tensor]:
    return [X, X[:1], torch.cat([X, X.cos(), X]), *([] if recurrent else [torch.cat([X, X], 2), X[..., :3]])]


def program(recurrent: bool) -> torch.export.ExportedProgram:
    dims = {dim: torch.export.Dim(name) for dim, name in DYNAMIC[recurrent].items()}
    return torch.export.export(model(recurrent), (X,), dynamic_shapes={"x": dims})


@cache
def eager(recurrent: bool) -> nn.Module:
    folded, report = wnconvert.fold(model(recurrent))
    assert len(report.converted) == (6 if recurrent else 4)
    assert not report.skipped
    return folded


def weights(recurrent: bool) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in eager(recurrent).state_dict().items() if tensor.ndim > 1}


# ---- the engine is torch: bits


@each
def test_the_live_model(recurrent: bool) -> None:
    source = model(recurrent)
    for name, weight in weights(recurrent).items():
        assert_same_bits(weight, getattr(source.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]))
    for x in sizes(recurrent):
        assert torch.equal(eager(recurrent)(x), source(x))


ROUTES: dict[str, Callable[[bool], tuple[Any, wnconvert.Report]]] = {
    "traced": lambda recurrent: wnconvert.fold(wnconvert.trace(model(recurrent))),
    "traced by torch": lambda recurrent: wnconvert.fold(torch.fx.symbolic_trace(model(recurrent))),
    "program": lambda recurrent: wnconvert.fold(loaded(program(recurrent))),
}


@each
@pytest.mark.parametrize("route", ROUTES)
def test_graphs_and_programs(route: str, recurrent: bool) -> None:
    folded, report = ROUTES[route](recurrent)
    assert not report.skipped
    is_program = isinstance(folded, torch.export.ExportedProgram)
    state, expected = folded.state_dict if is_program else folded.state_dict(), eager(recurrent).state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same_bits(state[name], tensor)
    run = folded.module() if is_program else folded
    for x in sizes(recurrent):
        assert torch.equal(run(x), model(recurrent)(x))


@each
def test_a_decomposed_program(recurrent: bool) -> None:
    """Weight norm is a formula there, and no kernel any more: close, and the bits of the program that was folded."""
    source = loaded(program(recurrent).run_decompositions())
    folded, report = wnconvert.fold(source)
    # of the steps of an LSTM one product reads a weight that is repeated for each sample, by strides of 0
    assert [entry.fqn for entry in report.skipped] == (["rnn.weight_ih_l0"] if recurrent else [])
    for entry in report.converted:
        torch.testing.assert_close(folded.state_dict[entry.fqn], weights(recurrent)[entry.fqn])
    for x in sizes(recurrent):
        assert torch.equal(folded.module()(x), source.module()(x))
        torch.testing.assert_close(folded.module()(x), model(recurrent)(x))


# ---- other engines: close


def of_file(path: Path) -> dict[str, Tensor]:
    found = onnx.load(path).graph.initializer
    return {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in found}


def assert_runs(path: Path, recurrent: bool) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in sizes(recurrent):
        (output,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(recurrent)(x))


#: of each weight, the name and the layout that torch's exporters give it
TURNED = {"head.weight": ("head.weight.T", lambda weight: weight.T)}
LSTM = {f"rnn.weight_{kind}_l0": f"rnn.weight_{kind}_l0.{name}" for kind, name in (("ih", "W"), ("hh", "R"))}


@each
def test_a_normalized_onnx_file(recurrent: bool, tmp_path: Path) -> None:
    """Its weights are evaluated by onnxruntime, whose sums have an order of their own."""
    from wnconvert.onnx_files import fold_file

    path, output = tmp_path / "normalized.onnx", tmp_path / "folded.onnx"
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 2: "time"}}}
    torch.onnx.export(model(recurrent), (X,), path, dynamo=False, do_constant_folding=False, **names)
    outcome = fold_file(path, output)
    assert len(outcome.report.converted) >= (6 if recurrent else 4)
    assert not outcome.report.missed
    found = of_file(output)
    for name, weight in weights(recurrent).items():
        if name in LSTM:  # ONNX has the gates in another order
            i, o, f, c = found[LSTM[name]][0].chunk(4)
            torch.testing.assert_close(torch.cat([i, f, c, o]), weight)
        else:
            key, turn = TURNED.get(name, (name, lambda weight: weight))
            torch.testing.assert_close(found[key], turn(weight))
    assert_runs(output, recurrent)


@each
def test_an_onnx_export_of_the_folded(recurrent: bool, tmp_path: Path) -> None:
    path = tmp_path / "exported.onnx"
    done = wnconvert.export(model(recurrent), path, (X,), dynamic_shapes={"x": DYNAMIC[recurrent]})
    assert done.normalizations == (6 if recurrent else 4, 0)
    found = of_file(path)
    for name, weight in weights(recurrent).items():  # torch composed them, and the exporter writes what it is given
        if not name.startswith("rnn."):
            key, turn = TURNED.get(name, (name, lambda weight: weight))
            assert_same_bits(found[key], turn(weight))
    assert_runs(path, recurrent)


@each
@pytest.mark.slow
@pytest.mark.skipif(cpp_compiler() is None, reason="compiles C++")
def test_a_compiled_package(recurrent: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.aoti.pt2"
    done = wnconvert.export(model(recurrent), path, (X,), dynamic_shapes={"x": DYNAMIC[recurrent]})
    assert done.normalizations == (6 if recurrent else 4, 0)
    run = load_compiled(path)
    for x in sizes(recurrent):
        torch.testing.assert_close(run(x), model(recurrent)(x))
