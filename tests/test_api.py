"""wnconvert.apply, fold and find_weighted_ops: copies, the original unharmed, errors with a way out."""

from __future__ import annotations

import copy
import hashlib
import re
import threading

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import wnconvert
from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import variant_id, variants
from tests.models import MODELS, WEIGHTS, build
from wnconvert.tracing.tracing import trace

each = pytest.mark.parametrize("scheme", variants(), ids=variant_id)
each_model = pytest.mark.parametrize("name", MODELS)


def fingerprint(model):
    """Return all that must not change about a model that is converted into a copy."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {id(tensor)} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    attributes = {
        path: {
            name: (id(value), dict(value) if isinstance(value, dict) else value)
            for name, value in vars(module).items()
            if not isinstance(value, torch.Tensor)
        }
        for path, module in model.named_modules()
    }
    attributes = {path: {name: str(value) for name, value in own.items()} for path, own in attributes.items()}
    classes = [(path, type(module), id(module), type(module).forward) for path, module in model.named_modules()]
    return digest.hexdigest(), attributes, classes


def _shift(model):
    model.w_in.data[0, 0] += 1


def _replace(model):
    model.w_in = nn.Parameter(model.w_in.detach().clone())


def _note(model):
    model.shared.note = 1


def _hook(model):
    model.register_forward_hook(lambda *_: None)


def _freeze(model):
    model.w_out.requires_grad_(False)


def _specialize(model):
    model.shared.__class__ = nn.modules.linear.NonDynamicallyQuantizableLinear


@pytest.mark.parametrize("change", [_shift, _replace, _note, _hook, _freeze, _specialize], ids=lambda f: f.__name__)
def test_the_fingerprint_sees_a_change(change):
    model, _ = build("functional")
    before = fingerprint(model)
    assert fingerprint(model) == before
    change(model)
    assert fingerprint(model) != before


@each
@pytest.mark.parametrize("name", ["conv", "transformer"])
@pytest.mark.parametrize("how", ["module", "graph"])
def test_a_round_trip_of_copies_gives_the_model_back(scheme, name, how):
    model, inputs = build(name)
    plain = Snapshot(trace(copy.deepcopy(model)) if how == "graph" else model)
    converted, report = wnconvert.apply(model, scheme, dim=0, how=how)
    assert isinstance(converted, GraphModule if how == "graph" else type(model))
    assert tuple(entry.fqn for entry in report.converted) == WEIGHTS[name]
    assert not any(entry.plain for entry in report.converted)
    expected = outputs_of(converted, inputs)
    folded, report = wnconvert.fold(converted)
    assert all(entry.plain for entry in report.converted)
    assert {entry.scheme for entry in report.converted} == {scheme.name}
    assert_same_outputs(outputs_of(folded, inputs), expected)
    if scheme.preserving:
        plain.assert_same(folded)
        assert_same_outputs(expected, outputs_of(model, inputs))


@each_model
def test_the_original_is_not_harmed(name):
    model, inputs = build(name)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before, expected = fingerprint(model), outputs_of(model, inputs)
    converted, _ = wnconvert.apply(model)
    wnconvert.fold(converted)
    wnconvert.fold(model)
    wnconvert.find_weighted_ops(model)
    assert fingerprint(model) == before
    assert_same_outputs(outputs_of(model, inputs), expected)
    assert len(calls) == 2


def test_an_applied_graph_module_is_not_harmed_by_folding_a_copy():
    converted, _ = wnconvert.apply(build("conv")[0], "sigma_reparam")
    before = Snapshot(converted)
    wnconvert.fold(converted)
    before.assert_same(converted)


def test_a_copy_shares_no_memory():
    model, _ = build("conv")
    converted, _ = wnconvert.apply(model)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in (*converted.parameters(), *converted.buffers())}


def test_in_place_a_graph_module_itself_is_changed():
    model = trace(build("conv")[0])
    converted, _ = wnconvert.apply(model, inplace=True)
    assert converted is model
    assert "stem.weight_v" in model.state_dict()
    folded, _ = wnconvert.fold(model, inplace=True)
    assert folded is model
    assert "stem.weight" in model.state_dict()


def test_in_place_the_modules_and_tensors_of_the_model_are_used():
    model, _ = build("conv")
    stem, bias = model.stem, model.head.bias
    converted, _ = wnconvert.apply(model, inplace=True)
    assert converted.stem is stem
    assert converted.head.bias is bias


def test_the_result_unpacks_and_names_its_fields():
    conversion = wnconvert.apply(build("conv")[0])
    model, report = conversion
    assert model is conversion.model
    assert report is conversion.report
    assert conversion[0] is model
    assert conversion[-1] is report
    assert len(conversion) == 2
    assert str(conversion).startswith("ConvNet: 4 converted, 0 skipped")


@pytest.mark.parametrize("how", ["module", "graph"])
def test_a_module_in_gives_that_module_back_and_a_graph_a_graph(how):
    model, _ = build("conv")
    graph_module = trace(copy.deepcopy(model))
    for convert in (wnconvert.apply, wnconvert.fold):
        kind = GraphModule if how == "graph" else type(model)
        assert isinstance(convert(model, how=how).model, kind)
        assert isinstance(convert(graph_module, how=how).model, GraphModule)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Parameter(torch.randn(2, 2)), "a Parameter is no module"),
        ("model.pt", "for a file there is wnconvert.checkpoint"),
    ],
    ids=["tensor", "path"],
)
@pytest.mark.parametrize("convert", [wnconvert.apply, wnconvert.fold, wnconvert.find_weighted_ops])
def test_what_is_no_module_is_refused_with_the_way_out(convert, model, message):
    with pytest.raises(wnconvert.KindError, match=re.escape(message)):
        convert(model)


def test_an_unknown_way_is_refused():
    with pytest.raises(wnconvert.OptionError, match="how is 'graf'; it must be 'module' or 'graph'"):
        wnconvert.apply(nn.Linear(2, 2), how="graf")


class Locked(nn.Module):
    """It holds what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.layer, self.lock = nn.Linear(3, 3), threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.layer(x)


def test_what_cannot_be_copied_is_converted_where_it_is():
    model, x = Locked(), torch.randn(2, 3)
    with pytest.raises(wnconvert.CopyError, match="convert it where it is, with inplace=True"):
        wnconvert.apply(model)
    assert [op.fqn for op in wnconvert.find_weighted_ops(model)] == ["layer.weight"]
    expected = model(x)
    converted, report = wnconvert.apply(model, inplace=True)
    assert converted is model
    assert [entry.fqn for entry in report.converted] == ["layer.weight"]
    assert torch.equal(model(x), expected)


def test_mode_and_attributes_are_kept():
    model, _ = build("conv")
    model.train()
    model.bn1.eval()
    converted, _ = wnconvert.apply(model)
    assert converted.training
    assert not converted.bn1.training
    assert converted.bn2.training


def test_the_default_scheme_is_weight_norm():
    assert {entry.scheme for entry in wnconvert.apply(build("conv")[0]).report.converted} == {"weight_norm"}


def test_options_reach_the_pass():
    converted, report = wnconvert.apply(
        build("conv")[0],
        wnconvert.WeightNorm(p=1.0),
        dim=None,
        selection=wnconvert.Selection(include=("stem",)),
    )
    assert [entry.fqn for entry in report.converted] == ["stem.weight"]
    assert converted.stem.weight_g.shape == ()
    folded, report = wnconvert.fold(converted, selection=wnconvert.Selection(exclude=("*",)))
    assert not report.converted
    assert "stem.weight_g" in folded.state_dict()


def test_applying_again_is_no_error():
    converted, _ = wnconvert.apply(build("conv")[0])
    again, report = wnconvert.apply(converted, "spectral_norm")
    assert not report.modified
    Snapshot(converted).assert_same(again)


def test_folding_a_plain_model_is_no_error():
    _, report = wnconvert.fold(build("conv")[0])
    assert not report.modified
    assert all(entry.already for entry in report.skipped)


# errors


class BufferBranching(nn.Module):
    """Decides on the value of a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("flip", torch.tensor(True))

    def forward(self, x):
        return -self.layer(x) if self.flip else self.layer(x)


@pytest.mark.parametrize("flip", [False, True])
def test_a_model_that_decides_on_a_buffer_is_converted_to_the_bit(flip):
    model = BufferBranching().eval()
    model.flip.fill_(flip)
    inputs = (torch.randn(2, 3),)
    expected = outputs_of(model, inputs)
    converted, report = wnconvert.apply(model)
    assert [entry.fqn for entry in report.converted] == ["layer.weight"]
    assert_same_outputs(outputs_of(converted, inputs), expected)


def test_a_failed_conversion_leaves_the_model_alone():
    model, inputs = build("conv")
    before, expected = fingerprint(model), outputs_of(model, inputs)
    with pytest.raises(wnconvert.NothingToConvertError):
        wnconvert.apply(model, dim=7)
    assert fingerprint(model) == before
    assert_same_outputs(outputs_of(model, inputs), expected)


# find_weighted_ops


def test_found_weights_say_what_they_are():
    found = wnconvert.find_weighted_ops(build("vocoder")[0])
    assert found[1] == wnconvert.WeightedOp(
        fqn="up.weight", ops=("conv_transpose1d",), shape=(8, 4, 4), dtype=torch.float32, output_dims=(1,)
    )


# reports


def test_a_report_is_plain_data():
    report = wnconvert.apply(build("conv")[0]).report
    data = report.to_dict()
    assert data["converted"][0]["fqn"] == "stem.weight"
    assert str(report).splitlines()[0] == "4 converted, 0 skipped (in place)"
    assert (report + report).converted == report.converted * 2


class Untraceable(nn.Module):
    """It takes a decision on a size, and normalizes a weight in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(4, 4))
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in range(x.shape[0]):
            x = x + step
        return self.conv(x).transpose(1, 2) @ torch.nn.functional.normalize(self.z)


def test_an_exported_graph_is_a_way_out_where_tracing_fails() -> None:
    model, x = Untraceable(), torch.randn(2, 4, 8)
    keys, expected = list(model.state_dict()), model(x)
    in_place, report = wnconvert.apply(model)
    assert isinstance(in_place, Untraceable)
    assert [entry.how for entry in report.converted] == ["in place"]
    graph_module = torch.export.export(model, (x,)).module()
    exported, report = wnconvert.apply(graph_module)
    assert {entry.fqn: entry.how for entry in report.converted} == {"conv.weight": "graph"}
    assert torch.equal(exported(x), expected)
    folded, report = wnconvert.fold(graph_module)
    assert [entry.fqn for entry in report.converted] == ["z"]
    assert torch.equal(folded(x), expected)
    assert list(folded.state_dict()) == keys


def test_example_inputs_that_do_not_fit_are_an_error() -> None:
    inputs = (torch.randn(2, 5, 8),)
    with pytest.raises(wnconvert.OptionError, match="does not run on the example inputs: RuntimeError: Given groups=1"):
        wnconvert.apply(Untraceable(), example_inputs=inputs)
    with pytest.raises(wnconvert.TracingError, match=r"cannot be traced: .*or torch\.export\.export"):
        wnconvert.apply(Untraceable(), example_inputs=inputs, how="graph")


def test_weighted_ops_are_found_without_a_graph_and_inside_what_it_does_not_look_into() -> None:
    assert [(op.fqn, op.ops) for op in wnconvert.find_weighted_ops(Untraceable())] == [("conv.weight", ("conv1d",))]
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 3))
    assert [(op.fqn, op.ops, op.output_dims) for op in wnconvert.find_weighted_ops(model)] == [
        ("0.weight", ("linear",), (0,)),
        ("1.weight_ih_l0", ("lstm",), (0,)),
        ("1.weight_hh_l0", ("lstm",), (0,)),
    ]
