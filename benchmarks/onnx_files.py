"""ONNX models before and after they are folded: ``python benchmarks/onnx_files.py``.

A vocoder under torch's weight norm is exported by both of torch's exporters. Each file is compared with what
``onnxscript.optimizer`` makes of it, with `wnconvert.onnx_files`, and with the export of the plain model:

- nodes, and norms: how many there are in all, and how many compute a norm of a weight;
- names: how many of the parameters of the plain model have their names in the file;
- int8: bytes of what onnxruntime's dynamic quantizer makes of it, or that it fails;
- load, run: the processor time of a session on one thread, with all that onnxruntime optimizes by default.

And many layers: the processor time of the pass, which grows with their number.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import onnxscript.optimizer
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from torch.nn.utils import parametrizations

from models import vocoder
from paired import parse, parser, plain_table
from wnconvert.onnx_files import FoldWeightsPass, fold

MB = 1_000_000
WEIGHTED = (nn.Conv1d, nn.ConvTranspose1d)
COLUMNS = ("export", "file", "MB", "nodes", "norms", "names", "int8 MB", "load", "run")


def main() -> None:
    """Export, fold, and print the tables in markdown."""
    given = parse(parser(__doc__, rounds=15, quick=3))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for exporter in ("dynamo", "torchscript"):
            rows += _rows(exporter, Path(folder), given.rounds)
    plain_table(COLUMNS, rows)
    plain_table(("layers", "fold", "a layer"), [_pass(count) for count in (100, 1_000, 10_000)])


def _rows(exporter: str, folder: Path, rounds: int) -> list[list[str]]:
    torch.manual_seed(0)
    plain = vocoder().eval()
    names = {name for name in plain.state_dict() if name.endswith("weight")}
    normalized = vocoder().eval()
    normalized.load_state_dict(plain.state_dict())
    for module in normalized.modules():
        if isinstance(module, WEIGHTED):
            parametrizations.weight_norm(module)
    x = torch.randn(1, _channels(plain), 50)
    makers: dict[str, Callable[[ir.Model], ir.Model]] = {
        "normalized": lambda model: model,
        "onnxscript": _optimized,
        "wnconvert": lambda model: fold(model)[0],
        "plain": lambda model: model,
    }
    files = {}
    for name, make in makers.items():
        source = folder / f"{exporter}.{name}.source.onnx"
        _export(plain if name == "plain" else normalized, x, source, exporter)
        files[name] = folder / f"{exporter}.{name}.onnx"
        ir.save(make(ir.load(source)), files[name], external_data=f"{files[name].name}.data")
    times = _times(files, x.numpy(), rounds)
    return [[exporter, name, *_facts(path, names), *times[name]] for name, path in files.items()]


def _channels(module: nn.Module) -> int:
    return next(each.in_channels for each in module.modules() if isinstance(each, nn.Conv1d))


def _export(module: nn.Module, x: torch.Tensor, path: Path, exporter: str) -> None:
    if exporter == "dynamo":
        torch.onnx.export(module, (x,), path, dynamo=True, verbose=False)
    else:
        torch.onnx.export(module, (x,), path, dynamo=False)


def _optimized(model: ir.Model) -> ir.Model:
    onnxscript.optimizer.optimize(model)
    return model


def _facts(path: Path, names: set[str]) -> list[str]:
    graph = ir.load(path).graph
    norms = sum(node.op_type == "ReduceL2" for node in graph)
    quantized = path.with_suffix(".int8.onnx")
    try:
        quantize_dynamic(path, quantized, weight_type=QuantType.QUInt8)
        int8 = f"{quantized.stat().st_size / MB:.2f}"
    except ValueError:
        int8 = "fails"
    size = sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}.data")))
    known = len(names & set(graph.initializers))
    return [f"{size / MB:.2f}", str(len(graph)), str(norms), f"{known} of {len(names)}", int8]


def _times(files: dict[str, Path], x: np.ndarray, rounds: int) -> dict[str, list[str]]:
    """Return the median time of loading and of running each file, measured in turns."""
    loads: dict[str, list[float]] = {name: [] for name in files}
    runs: dict[str, list[float]] = {name: [] for name in files}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for _ in range(rounds):
        for name, path in files.items():
            began = time.process_time()
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            loads[name].append(time.process_time() - began)
            feeds = {session.get_inputs()[0].name: x}
            session.run(None, feeds)
            began = time.process_time()
            session.run(None, feeds)
            runs[name].append(time.process_time() - began)
    return {name: [f"{1000 * statistics.median(each[name]):.1f} ms" for each in (loads, runs)] for name in files}


def _pass(count: int) -> list[str]:
    model = _layers(count)
    began = time.process_time()
    FoldWeightsPass()(model)
    took = time.process_time() - began
    return [f"{count:,}", f"{took:.2f} s", f"{1000 * took / count:.2f} ms"]


def _layers(count: int) -> ir.Model:
    """Return so many normalized convolutions in a row."""
    x = ir.Value(name="x", shape=ir.Shape([1, 4, "time"]), type=ir.TensorType(ir.DataType.FLOAT))
    inputs, stored, nodes = [x], [], []
    rng = np.random.default_rng(0)
    for index in range(count):
        shapes = {"weight_g": (4, 1, 1), "weight_v": (4, 4, 3)}
        g, v = (_stored(f"layers.{index}.{name}", rng.random(shape, np.float32) + 1) for name, shape in shapes.items())
        stored += [g, v]
        norm = ir.node("ReduceL2", [v], {"axes": [1, 2], "keepdims": 1})
        ratio = ir.node("Div", [g, norm.outputs[0]])
        weight = ir.node("Mul", [v, ratio.outputs[0]])
        conv = ir.node("Conv", [x, weight.outputs[0]], {"pads": [1, 1]})
        nodes += [norm, ratio, weight, conv]
        x = conv.outputs[0]
    graph = ir.Graph(inputs, [x], nodes=nodes, initializers=stored, opset_imports={"": 17}, name="layers")
    return ir.Model(graph, ir_version=9)


def _stored(name: str, array: np.ndarray) -> ir.Value:
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(array, name=name),
    )


if __name__ == "__main__":
    main()
