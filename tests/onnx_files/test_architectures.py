"""Models of other packages with random weights: exported normalized, and folded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.onnx_files.graphs import exported, ops, run, weights
from wnconvert.errors import NothingToConvertError
from wnconvert.onnx_files import fold_file
from wnconvert.report import Report

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # those of the packages and of torch's exporters
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def hifigan() -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    sizes = {"model_in_dim": 16, "upsample_initial_channel": 32, "upsample_rates": [4, 4]}
    config = transformers.SpeechT5HifiGanConfig(**sizes, upsample_kernel_sizes=[8, 8])
    model = transformers.SpeechT5HifiGan(config)
    model.apply_weight_norm()
    return model, torch.randn(2, 20, 16)


def whole_vits() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"flow_size": 16, "upsample_initial_channel": 32, "upsample_rates": [4, 4], "hidden_size": 32}
    layers = {"num_hidden_layers": 1, "prior_encoder_num_flows": 2, "prior_encoder_num_wavenet_layers": 2}
    config = transformers.VitsConfig(**sizes, **layers, upsample_kernel_sizes=[8, 8], ffn_dim=32)
    model = transformers.VitsModel(config)  # its WaveNets come normalized
    model.decoder.apply_weight_norm()
    return model


def vits() -> tuple[nn.Module, Tensor]:
    """The HiFi-GAN of VITS."""
    return whole_vits().decoder, torch.randn(2, 16, 20)


def vits_flow() -> tuple[nn.Module, Tensor]:
    """The WaveNets of VITS."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = whole_vits().flow

        def forward(self, x: Tensor) -> Tensor:
            return self.flow(x, torch.ones_like(x[:, :1]), reverse=True)

    return Flow(), torch.randn(2, 16, 20)


def dac(part: str) -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    encoder = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4]}
    decoder = {"decoder_hidden_size": 32, "upsampling_ratios": [4, 2]}
    config = transformers.DacConfig(**encoder, **decoder, n_codebooks=2, codebook_size=16, codebook_dim=4)
    model = transformers.DacModel(config)
    model.apply_weight_norm()
    return getattr(model, part), torch.randn(2, 1 if part == "encoder" else config.hidden_size, 320 // 8)


def wav2vec2() -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = transformers.Wav2Vec2Config(**sizes, **positions, conv_dim=(16,) * 7, attn_implementation="eager")

    class LastState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.Wav2Vec2Model(config)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x).last_hidden_state

    return LastState(), torch.randn(2, 4000)


def encodec() -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_filters": 4, "hidden_size": 16, "codebook_size": 16, "codebook_dim": 16, "num_lstm_layers": 1}
    config = transformers.EncodecConfig(**sizes, upsampling_ratios=[4, 2])
    return transformers.EncodecModel(config).encoder, torch.randn(2, 1, 320)


def bit() -> tuple[nn.Module, Tensor]:
    pytest.importorskip("timm")
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    norm, conv = partial(GroupNormAct, num_groups=8), partial(StdConv2d, eps=1e-8)
    channels = (32, 64, 64, 128)
    model = ResNetV2((1, 1, 1, 1), channels, num_classes=10, stem_chs=32, conv_layer=conv, norm_layer=norm)
    return model, torch.randn(2, 3, 64, 64)


def nfnet() -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    return timm.create_model("nf_resnet26", num_classes=10), torch.randn(2, 3, 64, 64)


#: how to build each, and which of its dims are dynamic
MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], dict[int, str]]] = {
    "hifigan": (hifigan, {0: "batch", 1: "time"}),
    "vits": (vits, {0: "batch", 2: "time"}),
    "vits flow": (vits_flow, {0: "batch", 2: "time"}),
    "dac encoder": (partial(dac, "encoder"), {0: "batch", 2: "time"}),
    "dac decoder": (partial(dac, "decoder"), {0: "batch", 2: "time"}),
    "wav2vec2": (wav2vec2, {0: "batch", 1: "time"}),
    "encodec": (encodec, {0: "batch"}),
    "bit": (bit, {0: "batch"}),
    "nfnet": (nfnet, {0: "batch"}),
}


def count_of(module: nn.Module) -> int:
    """Return how many weights are normalized: by a hook, a parametrization, or in the forward of timm's classes."""
    keys = [key for key in module.state_dict() if key.endswith((".weight_v", ".parametrizations.weight.original1"))]
    return len(keys) + sum("StdConv" in type(each).__name__ for each in module.modules())


def plain_names(module: nn.Module) -> set[str]:
    """Return the names that the parameters of a module have once it is folded."""
    names = {name.replace(".parametrizations.weight.original1", ".weight") for name in module.state_dict()}
    return {name.replace(".weight_v", ".weight") for name in names}


def folded_to(output: Path, path: Path, module: nn.Module) -> Report:
    """Fold a file; every norm of the module must be folded, and have its name."""
    report = fold_file(path, output).report
    normalized = [entry for entry in report.converted if not entry.fqn.endswith(".T")]
    assert len(normalized) == count_of(module) > 0
    assert {entry.fqn for entry in normalized} <= plain_names(module)
    assert {entry.fqn for entry in report.converted} <= weights(output).keys()
    assert not report.missed
    return report


@pytest.mark.parametrize("name", MODELS)
def test_every_norm_is_folded_and_has_its_name(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, axes = MODELS[name]
    module, x = build()
    how = {"do_constant_folding": False} if name in ("bit", "nfnet") else {}  # else they are computed by the exporter
    path = exported(module, x, tmp_path / "m.onnx", dynamo=False, axes=axes, **how)
    output = tmp_path / "out.onnx"
    report = folded_to(output, path, module)
    assert "the same bits" in report.notes[0]
    assert {"ReduceL2", "BatchNormalization"}.isdisjoint(ops(output))
    assert len(ops(output)) < len(ops(path))
    before, after = (ir.load(each).graph for each in (path, output))
    assert [value.shape for value in before.inputs] == [value.shape for value in after.inputs]
    given = before.inputs[0].name
    assert np.array_equal(*(run(each, **{given: x.numpy()}) for each in (path, output)))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "encodec"])
def test_what_the_newer_exporter_writes_is_folded_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, axes = MODELS[name]
    module, x = build()
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    exported_by_dynamo(module, x, axes).save(path)
    report = folded_to(output, path, module)
    assert "outputs compared in onnxruntime on 3 random inputs of different sizes" in report.notes[0]
    before, after = (ir.load(each).graph for each in (path, output))
    shapes = [value.shape for value in after.inputs]
    assert [value.shape for value in before.inputs] == shapes
    assert {index for index, size in enumerate(shapes[0]) if not isinstance(size, int)} == set(axes)
    with pytest.raises(NothingToConvertError):
        fold_file(output, None)
    sizes = [size + 16 if index in axes else size for index, size in enumerate(x.shape)]
    for size in (list(x.shape), sizes):
        given = {before.inputs[0].name: torch.randn(size).numpy()}
        torch.testing.assert_close(*(torch.from_numpy(run(each, **given)) for each in (path, output)))


def exported_by_dynamo(module: nn.Module, x: Tensor, axes: dict[int, str]) -> torch.onnx.ONNXProgram:
    """Return what torch's newer exporter makes of a module before it computes weights by itself."""
    shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        return torch.onnx.export(module.eval(), (x,), dynamo=True, dynamic_shapes=shapes, optimize=False, verbose=False)


def test_the_newer_exporter_takes_no_encodec_normalized_or_not() -> None:
    """It decides by sizes that it holds in tensors; so it is not left out above for its norms."""
    for fold in (False, True):
        module, x = encodec()
        module = wnconvert.fold(module).model if fold else module
        with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
            exported_by_dynamo(module, x, {0: "batch"})
        assert "Could not guard on data-dependent expression" in str(caught.value.__cause__)
