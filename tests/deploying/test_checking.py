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


def test_an_onnx_file_is_told_of_as_inspect_tells_it(tmp_path):
    pytest.importorskip("onnxruntime")
    from tests.onnx_files.graphs import one_layer, saved
    from wnconvert.onnx_files.inspecting import inspect_file

    path = saved(one_layer(), tmp_path / "net.onnx")
    assert wnconvert.check(path) == wnconvert.check(str(path)) == inspect_file(path).findings != ()


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm:UserWarning")  # torch's own list of the weights
def test_a_layer_of_several_weights_counts_once():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 3)
            for name in ("weight_ih_l0", "weight_hh_l0"):
                nn.utils.parametrizations.weight_norm(self.lstm, name)

        def forward(self, x):
            return self.lstm(x)[0]

    found = topics(wnconvert.check(torch.export.export(Recurrent().eval(), (torch.zeros(4, 1, 3),))))
    assert found["delegation"].problem.startswith("1 layer will not")
    assert len(found["delegation"].fqns) == 2


def test_what_is_computed_inside_of_a_branch_is_named():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(9, 9))

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: self.inner(x), lambda x: x - 1, (x,))

    model = Branching().eval()
    (finding,) = wnconvert.check(torch.export.export(model, X))
    assert (finding.topic, finding.fqns) == ("export", ("inner.weight",))
    assert "for the graphs that cond calls" in finding.problem
    assert wnconvert.check(torch.export.export(wnconvert.fold(model).model, X)) == ()
