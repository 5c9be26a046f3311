"""Weight norm without torch's own function, for what does not know it: in graphs, exported programs and ONNX."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import nn

import wnconvert
from tests.models import Network
from wnconvert import WeightNorm
from wnconvert.selection import Dim

pytestmark = pytest.mark.oracle
OUT, KERNEL = WeightNorm(written_out=True), WeightNorm()
#: by what dims are kept: the first of each weight, its outputs (in the middle, for a transposed one), none
each_dim = pytest.mark.parametrize("dim", [0, 1, "output", None])


INDEX = torch.arange(14).reshape(2, 7) % 7


def applied(scheme: WeightNorm, dim: Dim) -> nn.Module:
    converted, report = wnconvert.apply(Network().eval(), scheme, dim=dim)
    assert len(report.converted) == 4
    assert torch.equal(converted(INDEX), wnconvert.fold(converted).model(INDEX))
    return converted


def opaque(graph: torch.fx.Graph) -> set[str]:
    """Return the names of the functions of weight norm that others may not know."""
    names = {getattr(node.target, "__name__", "") for node in graph.nodes if node.op == "call_function"}
    return {name for name in names if "weight_norm" in name or "norm_except_dim" in name}


@each_dim
def test_a_graph_has_plain_operators(dim: Dim) -> None:
    out, _ = wnconvert.apply(Network(), OUT, dim=dim, how="graph")
    kernel, _ = wnconvert.apply(Network(), KERNEL, dim=dim, how="graph")
    assert (opaque(out.graph), opaque(kernel.graph)) == (set(), {"_weight_norm"})


@each_dim
def test_a_program_has_plain_operators(dim: Dim) -> None:
    model = applied(OUT, dim)
    program = torch.export.export(model, (INDEX,))
    assert opaque(program.graph) == opaque(program.run_decompositions().graph) == set()
    assert opaque(torch.export.export(applied(KERNEL, dim), (INDEX,)).graph) == {"_weight_norm.default"}
    assert torch.equal(program.module()(INDEX), model(INDEX))
    again, report = wnconvert.apply(torch.export.export(Network(), (INDEX,)), OUT, dim=dim)
    assert len(report.converted) == 4
    assert opaque(again.graph) == set()


@each_dim
@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
# both exporters speak of their own future, and of constants that they fold
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_onnx_model_has_the_operators_of_its_opset(dim: Dim, dynamo: bool, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = applied(OUT, dim)
    path = tmp_path / "model.onnx"
    if dynamo:
        torch.onnx.export(model, (INDEX,), path, dynamo=True, optimize=False, verbose=False)
    else:
        buffer = BytesIO()
        torch.onnx.export(model, (INDEX,), buffer, dynamo=False, do_constant_folding=False)
        path.write_bytes(buffer.getvalue())
    written = onnx.load(path)
    assert {node.domain for node in written.graph.node} == {""}
    assert not written.functions
    (opset,) = written.opset_import
    for node in written.graph.node:
        assert onnx.defs.has(node.op_type, opset.version), node.op_type
    assert [node.op_type for node in written.graph.node].count("ReduceL2") == 4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: INDEX.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(INDEX).detach())


def test_a_file_records_that_it_was_written_out(tmp_path: Path) -> None:
    """The record says which of the two it was, for their last bits differ."""
    from wnconvert import checkpoint

    source = tmp_path / "plain.pt"
    torch.save(nn.Linear(300, 200).state_dict(), source)
    content = checkpoint.load(source)
    split = checkpoint.apply(content, OUT)
    assert split.report.exact
    assert torch.equal(checkpoint.fold(split.checkpoint).checkpoint.content["weight"], content.content["weight"])
