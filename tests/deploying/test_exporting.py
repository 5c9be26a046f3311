"""`wnconvert.export`: folded, exported, compared, and only then there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wnconvert
from tests.deploying.nets import Branching, Net
from wnconvert.deploying.exporting import export
from wnconvert.deploying.targets.torch_export import TorchExport
from wnconvert.errors import (
    IncompleteError,
    KindError,
    NothingToConvertError,
    OptionError,
    OutputError,
    TracingError,
    VerificationError,
)

X = torch.linspace(-1, 1, 4 * 11).reshape(1, 4, 11)
DYNAMIC = {"x": {2: "T"}}
PLAIN = ["conv.weight", "conv.bias", "up.weight", "up.bias", "bn.weight", "bn.bias", "lin.weight", "last"]


def test_a_program_of_the_folded_model_appears(tmp_path):
    model = Net()
    state = {name: each.clone() for name, each in model.state_dict().items()}
    done = wnconvert.export(model, tmp_path / "net.pt2", (X,), dynamic_shapes=DYNAMIC)
    assert done.normalizations == (3, 0)  # of them one that the forward computes
    assert sorted(done.weights) == sorted(PLAIN)
    assert done.inputs["x"].startswith("1,4,T(")
    assert done.compared.same_bits
    assert done.compared.sizes == 3
    assert model.training
    assert all(torch.equal(state[name], each) for name, each in model.state_dict().items())
    program = torch.export.load(tmp_path / "net.pt2")
    longer = torch.randn(1, 4, 30)
    with torch.no_grad():
        assert torch.equal(program.module()(longer)["z"], model.eval()(longer)["z"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert done.bytes == (tmp_path / "net.pt2").stat().st_size
    assert "3 normalized weights before, 0 after" in str(done)


@pytest.mark.parametrize("how", ["hook", "parametrization", "graph", "in place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_normalizes_the_weight(tmp_path, how, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).to(dtype)
    ways = {
        "hook": nn.utils.weight_norm,
        "parametrization": nn.utils.parametrizations.weight_norm,
        "graph": lambda layer: wnconvert.apply(nn.Sequential(layer), how="graph").model,
        "in place": lambda layer: wnconvert.apply(nn.Sequential(layer)).model,
    }
    done = export(ways[how](layer), tmp_path / "net.pt2", (torch.randn(2, 6, dtype=dtype),))
    assert done.normalizations == (1, 0)
    assert done.compared.same_bits


@pytest.mark.filterwarnings("ignore:The tensor attribute self.up.weight was assigned")  # what torch says of its hook
def test_a_program_is_taken_too(tmp_path):
    program = torch.export.export(Net().eval(), (X,), dynamic_shapes={"x": {2: torch.export.Dim.DYNAMIC}})
    done = export(program, tmp_path / "net.pt2")
    assert done.normalizations == (3, 0)
    assert done.compared.sizes == 3
    assert "conv.weight" in torch.export.load(tmp_path / "net.pt2").state_dict


def test_what_is_fused_is_measured(tmp_path):
    done = export(Net(), tmp_path / "net.pt2", (X,), dynamic_shapes=DYNAMIC, fusions=["batch_norm"])
    assert [each.fqn for each in done.report.fused] == ["bn"]
    assert done.report.measured is not None
    assert not done.report.exact
    names = {str(node.target) for node in torch.export.load(tmp_path / "net.pt2").graph.nodes}
    assert not any("batch_norm" in name for name in names)
    with pytest.raises(NothingToConvertError, match="nothing to fuse"):
        export(nn.Linear(2, 2), tmp_path / "other.pt2", (torch.zeros(1, 2),), fusions=None)


def test_a_plain_model_is_exported_as_it_is(tmp_path):
    done = export(nn.Linear(2, 2), tmp_path / "net.pt2", (torch.zeros(3, 2),))
    assert done.normalizations == (0, 0)
    assert done.compared.same_bits


def test_arguments_by_name(tmp_path):
    done = export(Net(), tmp_path / "net.pt2", kwargs={"x": X}, dynamic_shapes=DYNAMIC)
    assert done.compared.sizes == 3


def test_a_dry_run_leaves_nothing(tmp_path):
    done = export(Net(), tmp_path / "net.pt2", (X,), dry_run=True)
    assert done.compared.sizes == 1
    assert list(tmp_path.iterdir()) == []


def test_what_computes_something_else_does_not_appear(tmp_path, monkeypatch):
    write = TorchExport.write

    def tampered(self, program, path, dims):
        program.state_dict["conv.weight"].data.mul_(1.01)
        return write(self, program, path, dims)

    monkeypatch.setattr(TorchExport, "write", tampered)
    (tmp_path / "net.pt2").write_bytes(b"old")
    with pytest.raises(VerificationError, match="nothing was kept"):
        export(Net(), tmp_path / "net.pt2", (X,), force=True)
    assert (tmp_path / "net.pt2").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported_is_refused(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    cases = [
        (TracingError, "torch.export does not export the model", Branching(), (X,), "a.pt2"),
        (OptionError, "there are none", Net(), None, "a.pt2"),
        (OptionError, "says by no suffix", Net(), (X,), "a.bin"),
        (OutputError, "is in no existing folder", Net(), (X,), "no/a.pt2"),
        (KindError, "is a int", 7, (X,), "a.pt2"),
    ]
    for kind, message, model, inputs, name in cases:
        with pytest.raises(kind, match=message):
            export(model, tmp_path / name, inputs)
    (tmp_path / "there.pt2").write_bytes(b"mine")
    with pytest.raises(OutputError, match="--force"):
        export(Net(), tmp_path / "there.pt2", (X,))
    with pytest.raises(OutputError, match="is the input itself"):
        export(Net(), tmp_path / "there.pt2", (X,), force=True, source=tmp_path / "there.pt2")
    assert (tmp_path / "there.pt2").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_torch_says_of_dims_is_told(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(1, 44) * 2

    with pytest.raises(TracingError, match="your code specialized it to be a constant") as caught:
        export(Fixed(), tmp_path / "a.pt2", (X,), dynamic_shapes=DYNAMIC)
    assert len(str(caught.value).splitlines()) == 1


def test_dims_are_called_as_they_are_given_by_place(tmp_path):
    done = export(Net(), tmp_path / "net.pt2", (X,), dynamic_shapes=({2: "T"},))
    assert done.inputs["x"].startswith("1,4,T(")


def test_what_is_left_is_counted_and_strictly_refused(tmp_path):
    program = torch.export.export(Branching().eval(), (torch.zeros(2, 4),))
    done = export(program, tmp_path / "net.pt2")
    assert done.normalizations == (2, 1)
    assert done.warning.startswith("1 of 2 weights are computed in the output still: inside 'true_graph_0', a cond")
    assert [each.fqn for each in done.report.skipped] == ["inner.weight"]
    with pytest.raises(IncompleteError, match="1 of 2 weights are computed") as caught:
        export(program, tmp_path / "strict.pt2", strict=True)
    assert [each.fqn for each in caught.value.report.converted] == ["outer.weight"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert export(Branching(), tmp_path / "whole.pt2", (torch.zeros(2, 4),), strict=True).normalizations == (2, 0)


def test_what_is_left_where_nothing_is_folded_is_counted(tmp_path):
    model = Branching().eval()
    nn.utils.parametrize.remove_parametrizations(model.outer, "weight")
    program = torch.export.export(model, (torch.zeros(2, 4),))
    assert export(program, tmp_path / "net.pt2").normalizations == (1, 1)
