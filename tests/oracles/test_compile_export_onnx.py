"""What is done with a model after a conversion: compiled, exported, run by onnxruntime."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wnconvert
from tests.graph.snapshot import assert_same_outputs, outputs_of
from tests.helpers import label, variant_id, variants
from tests.models import build

PLAIN_AGAIN = {"weight_norm", "spectral_norm"}
each = pytest.mark.parametrize("scheme", variants(), ids=variant_id)
applied_and_folded = pytest.mark.parametrize("folded", [False, True], ids=["applied", "folded"])
#: what is folded is a plain model again, whatever the scheme was: of one without state, and of one with state
each_and_two_folded = pytest.mark.parametrize(
    ("scheme", "folded"),
    [(scheme, folded) for folded in (False, True) for scheme in variants() if not folded or scheme.name in PLAIN_AGAIN],
    ids=label,
)


def converted(name, scheme, folded):
    model, inputs = build(name)
    model, _ = wnconvert.apply(model, scheme, dim=0)
    if folded:
        model, _ = wnconvert.fold(model)
    return model.eval(), inputs


@each_and_two_folded
def test_the_whole_graph_is_captured_by_dynamo(scheme, folded):
    torch.compiler.reset()
    model, inputs = converted("conv", scheme, folded)
    expected = outputs_of(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same_outputs(outputs_of(compiled, inputs), expected)


@pytest.mark.parametrize(
    # of one scheme of each kind: with state, shared by all weights, with a mean; the others in modules/test_compiled.py
    "scheme",
    [scheme for scheme in variants() if scheme.name in ("spectral_norm", "network_norm", "weight_standardization")],
    ids=variant_id,
)
def test_a_compiled_training_step_is_the_eager_one(scheme):
    torch.compiler.reset()
    eager, inputs = converted("functional", scheme, False)
    compiled, _ = converted("functional", scheme, False)
    run = torch.compile(compiled.train(), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        eager.train()(*inputs).square().sum().backward()
        run(*inputs).square().sum().backward()
    for (name, own), other in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert (own.grad is None) is (other.grad is None), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad)
    for own, other in zip(compiled.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it first loads inductor
def test_inductor_compiles_applied_models():
    torch.compiler.reset()
    # all in one, without gradients: a C++ compiler takes half of the minute for each graph
    models = nn.ModuleList(converted("functional", each, False)[0] for each in ("weight_norm", "spectral_norm"))
    models.append(wnconvert.apply(build("functional")[0], "weight_norm", inplace=True).model.eval())
    _, inputs = build("functional")

    def run():
        return torch.cat([model(*inputs).flatten() for model in models])

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(), run())


@each_and_two_folded
def test_torch_export_gives_the_same_bits(scheme, folded):
    model, inputs = converted("vocoder", scheme, folded)
    expected = outputs_of(model, inputs)
    program = torch.export.export(model, inputs)
    assert_same_outputs(outputs_of(program.module(), inputs), expected)


@pytest.mark.parametrize("scheme", ["weight_norm", "weight_standardization"])
def test_an_exported_applied_model_can_be_folded(scheme):
    model, inputs = converted("vocoder", wnconvert.SCHEMES.get(scheme)(), False)
    expected = outputs_of(model, inputs)
    program = torch.export.export(model, inputs).module()
    folded, report = wnconvert.fold(program)
    assert len(report.converted) == 5
    assert_same_outputs(outputs_of(folded, inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "folded"),
    [("weight_norm", False), ("weight_norm", True), ("sigma_reparam", False), ("weight_standardization", False)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnxruntime_computes_what_the_model_does(scheme, folded, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs = converted("conv", wnconvert.SCHEMES.get(scheme)(), folded)
    (expected,) = outputs_of(model, inputs)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, inputs, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


@each
@applied_and_folded
def test_training_steps_lower_the_loss(scheme, folded):
    model, inputs = converted("conv", scheme, folded)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(*inputs), torch.arange(4))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
