"""What torch's exporters write of normalized models, folded: names, sizes, outputs, and what quantizers make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization as quantization
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import wnconvert
from tests.onnx_files.graphs import convolution, exported, loaded, model, normed, ops, parts, run, weights
from tests.processes import run_code
from wnconvert.onnx_files import FoldWeightsPass, fold, fold_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # those of torch's exporters
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Standardized(nn.Conv1d):
    """A convolution whose forward standardizes its weight."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2), keepdim=True)
        std = self.weight.std((1, 2), keepdim=True)
        return nn.functional.conv1d(x, (self.weight - mean) / (std + 1e-5), self.bias, padding=1)


class Net(nn.Module):
    """A convolution, a transposed one, and a linear layer, each normalized."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module], conv: type[nn.Conv1d] = nn.Conv1d) -> None:
        super().__init__()
        self.pre = norm(conv(4, 16, 3, padding=1))
        self.up = norm(nn.ConvTranspose1d(16, 16, 4, 2, 1))
        self.head = norm(nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.pre(x).relu()).relu()
        return self.head(x.transpose(1, 2))


def applied(scheme: str) -> Callable[[], nn.Module]:
    return lambda: wnconvert.apply(Net(lambda module: module), scheme).model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "hooks": lambda: Net(weight_norm),
    "parametrizations": lambda: Net(parametrizations.weight_norm),
    "spectral hooks": lambda: Net(spectral_norm),
    "standardized": lambda: Net(weight_norm, Standardized),
    "weight_norm": applied("weight_norm"),
    "centered_weight_norm": applied("centered_weight_norm"),
    "unit_norm": applied("unit_norm"),
}
NAMES = {"pre.weight", "pre.bias", "up.weight", "up.bias", "head.weight.T", "head.bias"}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", MODELS)
def test_every_norm_goes_and_every_name_comes_back(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = MODELS[name](), torch.randn(2, 4, 16)
    how = {"optimize": False} if dynamo else {}  # the exporter computes weights that are as small as these itself
    path = exported(module, x, tmp_path / "m.onnx", dynamo=dynamo, **how)
    output = tmp_path / "out.onnx"
    folded, report = fold(ir.load(path))
    ir.save(folded, output)
    assert {entry.fqn for entry in report.converted} == {each for each in NAMES if ".weight" in each}
    assert not report.missed
    assert weights(output).keys() == NAMES
    assert ops(output) == ["Conv", "Relu", "ConvTranspose", "Relu", "Transpose", "MatMul", "Add"]
    given = ir.load(path).graph.inputs[0].name
    for shape in ((2, 4, 16), (1, 4, 7), (3, 4, 40)):
        x = torch.randn(shape)
        before, after = (run(each, **{given: x.numpy()}) for each in (path, output))
        assert np.array_equal(before, after)
        expected = module.eval()(x).detach()
        scale = expected.abs().max()  # without weight norm outputs are large, and so is what another engine rounds
        torch.testing.assert_close(torch.from_numpy(after) / scale, expected / scale)


def test_names_that_the_exporter_took_come_back_too(tmp_path: Path) -> None:
    net = Net(weight_norm)
    net.head = weight_norm(nn.Linear(16, 1000))  # large enough to be left to onnxruntime
    path = exported(net, torch.randn(2, 4, 16), tmp_path / "m.onnx", dynamo=True)
    if not any(op == "ReduceL2" for op in ops(path)):
        pytest.skip("this exporter computes every weight itself")
    assert not {"pre.weight", "up.weight"} & weights(path).keys()
    report = fold_file(path, tmp_path / "out.onnx").report
    assert weights(tmp_path / "out.onnx").keys() == NAMES
    assert "2 weights that the exporter had computed got back the name" in report.notes[-1]


def quantized(path: Path) -> tuple[int, int]:
    """Return how many layers onnxruntime's dynamic quantizer quantizes, and the bytes of what it writes."""
    output = path.with_suffix(".quantized.onnx")
    quantization.quantize_dynamic(path, output, weight_type=quantization.QuantType.QUInt8)
    return sum(op in ("ConvInteger", "MatMulInteger") for op in ops(output)), output.stat().st_size


def test_a_quantizer_quantizes_every_folded_layer_and_none_before(tmp_path: Path) -> None:
    net = nn.Sequential(*(weight_norm(nn.Conv1d(64, 64, 3, padding=1)) for _ in range(3)))
    path = exported(net, torch.randn(1, 64, 16), tmp_path / "m.onnx", dynamo=False)
    fold_file(path, tmp_path / "out.onnx")
    with pytest.raises(ValueError, match="to be an initializer"):
        quantized(path)
    count, size = quantized(tmp_path / "out.onnx")
    assert count == 3
    assert size < path.stat().st_size / 3


def test_a_quantizer_quantizes_linear_layers_too(tmp_path: Path) -> None:
    net = nn.Sequential(weight_norm(nn.Linear(64, 64)), nn.ReLU(), weight_norm(nn.Linear(64, 64)))
    path = exported(net, torch.randn(3, 5, 64), tmp_path / "m.onnx", dynamo=False)
    fold_file(path, tmp_path / "out.onnx")
    assert (quantized(path)[0], quantized(tmp_path / "out.onnx")[0]) == (0, 2)


def test_recurrent_layers_are_folded(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = weight_norm(nn.LSTM(4, 6, batch_first=True), "weight_hh_l0")

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    module = Recurrent()
    path = exported(module, torch.randn(2, 7, 4), tmp_path / "m.onnx", dynamo=False, dynamic=False)
    report = fold_file(path, tmp_path / "out.onnx").report
    assert "lstm.weight_hh_l0.R" in {entry.fqn for entry in report.converted}
    assert "ReduceL2" not in ops(tmp_path / "out.onnx")
    assert "0 weights are still computed" in report.notes[1]


def layered(count: int) -> onnx.ModelProto:
    """Return a model of so many normalized convolutions in a row."""
    nodes, tensors = [], {}
    for index in range(count):
        name, x = f"layers.{index}", f"h{index - 1}" if index else "x"
        nodes += [*normed(f"{name}.weight_g", f"{name}.weight_v", f"w{index}")]
        nodes.append(convolution(f"w{index}", f"{name}.bias", x, f"h{index}"))
        tensors |= parts(name, 4)
    return model(nodes, tensors, output=f"h{count - 1}")


def test_a_thousand_layers_are_folded() -> None:
    read = loaded(layered(1000))
    report = FoldWeightsPass()(read).report
    assert [entry.fqn for entry in report.converted] == [f"layers.{index}.weight" for index in range(1000)]
    assert len(read.graph) == 1000
    assert len(read.graph.initializers) == 2000


@pytest.mark.slow
def test_ten_thousand_layers_take_ten_times_as_long() -> None:
    code = """
import resource, time
from tests.onnx_files.graphs import loaded
from tests.onnx_files.test_exports import layered
from wnconvert.onnx_files import FoldWeightsPass

def cost(count):
    read, began = loaded(layered(count)), time.process_time()
    assert len(FoldWeightsPass()(read).report.converted) == count
    return time.process_time() - began

cost(10)
one = cost(1000)
limit = int(time.process_time() + 10 * (2.5 * one + 1)) + 5  # quadratic cost would be a hundred times as much
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
cost(10_000)
"""
    assert run_code(code, cwd=Path(__file__).parents[2]).code == 0
