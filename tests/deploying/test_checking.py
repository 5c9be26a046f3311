"""`wnconvert.check` of graphs, programs and ONNX files names what the next tool will not do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wnconvert
from wnconvert.errors import CheckpointError, KindError

X = (torch.zeros(2, 4, 9),)


def net(times: int = 2) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.weight_norm
    layers = [norm(nn.Conv1d(4, 4, 3, padding=1)) for _ in range(times)]
    return nn.Sequential(*layers, nn.Conv1d(4, 4, 1), norm(nn.Linear(9, 3))).eval()


def topics(findings):
    return {each.topic: each for each in findings}


def test_a_program_names_what_is_not_delegated():
    found = topics(wnconvert.check(torch.export.export(net(), X)))
    assert set(found) == {"delegation", "quantization"}
    assert found["delegation"].problem.startswith("2 convolutions and 1 other layer will not be delegated (ExecuTorch)")
    assert found["delegation"].fqns == ("0.weight", "1.weight", "3.weight")


def test_a_program_is_left_as_it_is_and_a_folded_one_has_no_findings():
    program = torch.export.export(net(), X)
    before = [*program.state_dict]
    wnconvert.check(program)
    assert [*program.state_dict] == before
    assert wnconvert.check(wnconvert.fold(program).program) == ()


def test_nodes_of_a_graph_are_seen():
    graph = wnconvert.apply(nn.Sequential(nn.Linear(4, 4)), how="graph").model
    found = topics(wnconvert.check(graph))
    assert found["delegation"].problem.startswith("1 layer will not be delegated")
    assert found["delegation"].fqns == ("0.weight",)
    assert wnconvert.check(wnconvert.trace(nn.Sequential(nn.Linear(4, 4)))) == ()


def test_a_module_is_told_of_as_ever():
    assert "pickling" in topics(wnconvert.check(net()))
    with pytest.raises(KindError):
        wnconvert.check(7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_names_what_stays_in_float(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    torch.onnx.export(net(), X, path, dynamo=True, verbose=False, optimize=False, external_data=False)
    (finding,) = wnconvert.check(path)
    assert finding.topic == "quantization"
    assert "dynamic quantizer fails, or leaves 2 convolutions and 1 other layer in floating point" in finding.problem
    folded = tmp_path / "folded.onnx"
    wnconvert.export(net(), folded, X)
    assert wnconvert.check(folded) == ()
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        wnconvert.check(tmp_path / "bad.onnx")


def test_a_weight_of_an_onnx_file_that_two_layers_read_counts_for_both(tmp_path):
    pytest.importorskip("onnxruntime")
    from tests.onnx_files.graphs import convolution, model, node, normed, parts, saved

    table = [node("Gather", ["w", "index"], "rows", axis=0), node("ReduceMax", ["rows"], "most", keepdims=0)]
    nodes = [
        *normed("conv.weight_g", "conv.weight_v", "w"),
        convolution(y="h"),
        *table,
        node("Add", ["h", "most"], "y"),
    ]
    proto = model(nodes, parts(), {"x": ("batch", 4, "time"), "index": (2,)})
    proto.graph.input[1].type.tensor_type.elem_type = 7  # int64
    (finding,) = wnconvert.check(saved(proto, tmp_path / "net.onnx"))
    assert "leaves 1 convolution and 1 other layer in floating point" in finding.problem
