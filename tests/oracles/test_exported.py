"""Programs of real architectures, normalized as they come: folded, they are those of plain models, of any length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.parametrizations import weight_norm

import wnconvert
from tests.exported.programs import at, loaded
from wnconvert.exported.running import Runner, user_inputs
from wnconvert.verification import same_bits

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attributes? self:UserWarning"),
]

#: how the nodes that normalize a weight are called, decomposed or not
NORMS = ("_weight_norm", "linalg_vector_norm", "pow", "sqrt", "div", "batch_norm", "_native_batch_norm")


class _Tensors(nn.Module):
    """A model of transformers whose outputs are the tensors of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        output = self.model(x)
        return output if isinstance(output, Tensor) else [each for each in output.values() if isinstance(each, Tensor)]


def _of_transformers(family: str) -> tuple[nn.Module, Tensor]:
    pytest.importorskip("transformers")
    from tests.zoo.transformers_models import FAMILIES, normalized

    model, ((x, *_), _) = normalized(FAMILIES[family])
    return model, x


def _wav2vec2() -> tuple[nn.Module, Tensor, dict[int, Any]]:
    model, x = _of_transformers("wav2vec2")
    return _Tensors(model), x.repeat(2, 1), {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}


def _hifigan() -> tuple[nn.Module, Tensor, dict[int, Any]]:
    model, x = _of_transformers("speecht5")
    return model, x, {0: Dim("frames", min=4, max=4096)}


def _vits() -> tuple[nn.Module, Tensor, dict[int, Any]]:
    """From text to waves: WaveNets and a HiFi-GAN."""
    model, x = _of_transformers("vits")
    del model.posterior_encoder  # only training reads it
    return _Tensors(model), x[:1], {1: Dim.DYNAMIC}


def _vits_decoder() -> tuple[nn.Module, Tensor, dict[int, Any]]:
    """The decoder of VITS, which is a HiFi-GAN."""
    model, _ = _of_transformers("vits")
    return model.decoder, torch.randn(1, 8, 11), {2: Dim("frames", min=4, max=4096)}


def _dac(part: str) -> tuple[nn.Module, Tensor, dict[int, Any]]:
    model, x = _of_transformers("dac")
    if part == "decoder":
        return model.decoder, torch.randn(2, model.config.hidden_size, 20), {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    return model.encoder, x.repeat(2, 1, 1), {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}


def _encodec() -> tuple[nn.Module, Tensor, dict[int, Any]]:
    """What is in EnCodec's encoder; transformers' own pads by sizes that it holds in tensors, which export refuses."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.skip = (weight_norm(nn.Conv1d(*each)) for each in ((1, 8, 7), (8, 8, 1)))
            self.block = nn.Sequential(
                nn.ELU(), weight_norm(nn.Conv1d(8, 4, 3)), nn.ELU(), weight_norm(nn.Conv1d(4, 8, 1))
            )
            self.lstm = nn.LSTM(8, 8, 2)
            self.last = weight_norm(nn.Conv1d(8, 16, 4, stride=2))

        def forward(self, x):
            x = self.first(nn.functional.pad(x, (6, 0), mode="reflect"))
            x = self.skip(x) + self.block(nn.functional.pad(x, (2, 0), mode="reflect"))
            x = x.permute(2, 0, 1)
            x = self.lstm(x)[0] + x
            return self.last(nn.functional.elu(x.permute(1, 2, 0)))

    return Encoder(), torch.randn(2, 1, 10), {0: Dim("batch", min=2, max=16)}


def _timm(name: str, size: int, **options: Any) -> tuple[nn.Module, Tensor, dict[int, Any]]:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, num_classes=10, **options)
    return model, torch.randn(2, 3, size, size), {0: Dim("batch", min=2, max=64)}


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor, dict[int, Any]]]] = {
    "hifigan": _hifigan,
    "wav2vec2": _wav2vec2,
    "vits": _vits,
    "vits decoder": _vits_decoder,
    **{f"dac {part}": partial(_dac, part) for part in ("encoder", "decoder")},
    "encodec": _encodec,
    "bit": lambda: _timm("resnetv2_50x1_bit", 64),
    "nfnet": lambda: _timm("test_nfnet", 64),
}


def norms(program: ExportedProgram) -> list[str]:
    """Return the nodes that normalize what is computed from parameters alone."""
    held = program.graph_signature
    constants = {*held.inputs_to_parameters, *held.inputs_to_buffers, *held.inputs_to_lifted_tensor_constants}
    for node in program.graph.nodes:
        inputs = {each.name for each in node.all_input_nodes}
        if node.op == "call_function" and inputs and inputs <= constants:
            constants.add(node.name)
    calls = [node.name for node in program.graph.nodes if node.op == "call_function"]
    return [name for name in calls if name in constants and name.startswith(NORMS)]


@pytest.mark.parametrize("stage", ["exported", "loaded decomposed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_folded_program_has_no_norm_and_the_keys_and_bits_of_the_plain_model(name: str, stage: str) -> None:
    torch.manual_seed(0)
    model, x, dynamic = MODELS[name]()
    model = model.eval()
    keys = set(wnconvert.fold(model).model.state_dict())
    program = at(torch.export.export(model, (x,), dynamic_shapes=[dynamic or None]), stage)
    count = len(norms(program))
    assert count
    folded, report = wnconvert.fold(program)
    assert not norms(folded)
    assert report.converted
    sizes = 3 if dynamic else 1
    assert report.notes == (
        "run on 1 input, the program gives the same outputs as before, bit for bit"
        if sizes == 1
        else f"run on inputs of {sizes} sizes, the program gives the same outputs as before, bit for bit",
    )
    assert set(folded.state_dict) <= keys
    assert not any("parametrizations" in key or key.endswith((".weight_g", ".weight_v")) for key in folded.state_dict)
    again = Runner(loaded(folded))
    for inputs in user_inputs(program):
        for a, b in zip(again.run(inputs), Runner(program).run(inputs), strict=True):
            assert same_bits(a, b)
            assert a.isfinite().all()


def test_torch_exports_no_encodec_of_transformers_normalized_or_not() -> None:
    """It decides by sizes that it holds in tensors; so it is not left out above for its norms."""
    model, x = _of_transformers("encodec")
    for encoder in (model.encoder, wnconvert.fold(model.encoder).model):
        with pytest.raises(RuntimeError, match="Could not guard on data-dependent expression"):
            torch.export.export(encoder.eval(), (x,))
    with pytest.raises(wnconvert.TracingError, match=r"torch\.export does not export the model: .*data-dependent"):
        wnconvert.export(model.encoder, "encoder.pt2", (x,), dry_run=True)
