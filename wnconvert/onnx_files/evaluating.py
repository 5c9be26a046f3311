"""The values of computed weights: what onnxruntime itself computes, without its optimizations, on one thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from wnconvert.errors import described
from wnconvert.onnx_files.expressions import Weight, is_stored

#: dtypes that onnxruntime neither takes from NumPy nor has kernels for on a CPU
_FOREIGN = frozenset({ir.DataType.BFLOAT16})


class CannotComputeError(Exception):
    """Nothing here computes such a weight; the text says why."""


def options() -> ort.SessionOptions:
    """Return how sessions are run here: each node by its own kernel, in order, on one thread."""
    chosen = ort.SessionOptions()
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    chosen.enable_cpu_mem_arena = False
    chosen.use_deterministic_compute = True
    chosen.log_severity_level = 4
    return chosen


def evaluate(group: Sequence[Weight], model: ir.Model, order: dict[ir.Node, int]) -> list[np.ndarray]:
    """Return the values of weights that share calls, or of a single one.

    Raises:
        CannotComputeError: they cannot be computed.
    """
    try:
        proto, inputs = _graph_of(group, model, order)
        feeds = {value.name or "": _contents(value) for value in inputs}
        if any(value.const_value.dtype in _FOREIGN for value in inputs if value.const_value is not None):
            return _by_reference(proto, feeds)
        session = ort.InferenceSession(proto.SerializeToString(), options(), providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    except CannotComputeError:
        raise
    except Exception as error:
        raise CannotComputeError(described(error)) from error


def _by_reference(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Compute by ONNX's own evaluator, which knows every dtype."""
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(proto).run(None, feeds))


def _contents(value: ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise CannotComputeError(f"{value.name!r} has no data")
    return np.ascontiguousarray(value.const_value.numpy())


def _graph_of(
    group: Sequence[Weight], model: ir.Model, order: dict[ir.Node, int]
) -> tuple[onnx.ModelProto, list[ir.Value]]:
    """Return a model of the calls that compute some weights, and the stored tensors that are its inputs."""
    calls = sorted({node for weight in group for node in weight.nodes}, key=order.__getitem__)
    read = dict.fromkeys(value for node in calls for value in node.inputs if value is not None and is_stored(value))
    constants = dict.fromkeys(node for value in read if (node := value.producer()) is not None)
    inputs = [value for value in read if value.producer() is None]
    graph = onnx.GraphProto(name="weights")
    graph.node.extend(ir.serde.serialize_node(node) for node in (*constants, *calls))
    for value in inputs:
        tensor = value.const_value
        if tensor is None:
            raise CannotComputeError(f"{value.name!r} has no data")
        graph.input.append(onnx.helper.make_tensor_value_info(value.name or "", tensor.dtype, tensor.shape.numpy()))
    graph.output.extend(onnx.ValueInfoProto(name=weight.value.name) for weight in group)
    proto = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    proto.opset_import.add(domain="", version=model.graph.opset_imports.get("", 1))
    return proto, inputs
