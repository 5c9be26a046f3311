"""The layouts of installed packages, against their own modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wnconvert.checkpoint import Checkpoint, difference, fold, unfold
from wnconvert.checkpoint.comparing.effective import effective
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.conversions.reference import apply_like
from wnconvert.checkpoint.layout import find_groups, preset
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.checkpoint.weights.reading import Reading

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def transformers_model(name: str) -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "EnCodec":
        config = transformers.EncodecConfig(
            num_filters=2, hidden_size=8, upsampling_ratios=[2, 2], codebook_size=8, num_lstm_layers=1
        )
        return transformers.EncodecModel(config).eval(), torch.randn(1, 1, 64)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,),
        conv_kernel=(4,), conv_stride=(2,), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=1,
    )  # fmt: skip
    return transformers.Wav2Vec2Model(config).eval(), torch.randn(1, 64)


@torch.no_grad()
@pytest.mark.parametrize("name", ["EnCodec", "wav2vec2"])
def test_transformers_models_fold_migrate_and_apply(name: str) -> None:
    model, _ = transformers_model(name)
    state = model.state_dict()
    checkpoint = Checkpoint(dict(state), "safetensors")
    groups = find_groups(state)
    assert groups
    for group in groups:
        module, _, parameter = group.stem.rpartition(".")
        live = getattr(model.get_submodule(module), parameter)
        weight = by_layout(group).weight({part: state[key] for part, key in group.keys.items()})
        assert torch.equal(weight, live), group.stem
    hooked = migrate(checkpoint, "hook").checkpoint
    # torch's own parametrizations read the keys of the hooks
    assert not model.load_state_dict(hooked.content, strict=True).missing_keys
    assert difference(checkpoint.content, migrate(hooked, "parametrization").checkpoint.content) is None
    plain = Checkpoint({entry.name: entry.value() for entry in effective(checkpoint, Reading())}, "safetensors")
    applied = apply_like(plain, checkpoint).checkpoint.content
    model.load_state_dict(applied, strict=True)
    for entry in effective(checkpoint, Reading()):
        if entry.spelled != "plain":
            module, _, parameter = entry.name.rpartition(".")
            assert torch.equal(getattr(model.get_submodule(module), parameter), plain.content[entry.name])


def timm_model(name: str) -> nn.Module:
    pytest.importorskip("timm")
    from timm.models import nfnet, resnetv2

    torch.manual_seed(0)
    if name == "timm-bit":
        return resnetv2.ResNetV2((1, 1), (128, 256), num_classes=3, stem_chs=32, conv_layer=_bit_conv())
    # DeepMind's networks have gamma in the activation, timm's own have it in the weight
    config = nfnet.model_cfgs["dm_nfnet_f0" if name == "nfnet" else "nf_regnet_b0"]
    widths = (16, 32, 64, 64)
    return nfnet.NormFreeNet(
        replace(config, depths=(1, 1, 1, 1), channels=widths, stem_chs=16, group_size=8), num_classes=3
    )


def _bit_conv() -> Callable[..., nn.Module]:
    from timm.layers import StdConv2d

    return partial(StdConv2d, eps=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm-bit", "nfnet", "nfnet with gamma"])
def test_timm_presets_have_the_bits_of_its_layers(name: str) -> None:
    model = timm_model(name)
    layers = {fqn: module for fqn, module in model.named_modules() if type(module).__name__.find("StdConv2d") >= 0}
    first = next(iter(layers.values()))
    gamma = first.scale / first.weight[0].numel() ** -0.5 if name != "timm-bit" else 1.0
    assert (gamma == 1.0) == (name != "nfnet with gamma")
    layout = preset(name.partition(" ")[0], **({"gamma": gamma} if gamma != 1.0 else {}))
    state = model.state_dict()
    groups = find_groups(state, presets=[layout])
    assert [group.stem for group in groups] == [f"{fqn}.weight" for fqn in layers]
    for group, module in zip(groups, layers.values(), strict=True):
        weight = by_layout(group, layout).weight({part: state[key] for part, key in group.keys.items()})
        gain = (module.gain * module.scale).view(-1) if hasattr(module, "gain") else None
        flat = module.weight.reshape(1, module.out_channels, -1)
        live = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=module.eps)
        assert torch.equal(weight, live.reshape_as(module.weight)), group.stem


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm-bit", "nfnet", "nfnet with gamma"])
def test_folded_timm_models_are_unfolded_for_their_own_classes(name: str) -> None:
    model = timm_model(name).eval()
    gamma = next((m.scale / m.weight[0].numel() ** -0.5 for m in model.modules() if hasattr(m, "gain")), 1.0)
    layout = preset(name.partition(" ")[0], **({"gamma": gamma} if gamma != 1.0 else {}))
    x = torch.randn(1, 3, 64, 64)
    source = Checkpoint({key: value.clone() for key, value in model.state_dict().items()}, "torch_zip")
    folded = fold(source, presets=[layout])
    before = model(x)
    unfolded = unfold(folded.checkpoint, layout)
    converted = {entry.fqn for entry in unfolded.report.converted}
    assert converted == {entry.fqn for entry in folded.report.converted}
    model.load_state_dict(unfolded.checkpoint.content, strict=True)
    torch.testing.assert_close(model(x), before)  # up to 2 ULPs in each weight, see docs/layouts.md
    again = fold(unfolded.checkpoint, presets=[layout]).checkpoint
    for entry in unfolded.report.converted:
        change = (folded.checkpoint.content[entry.fqn].double() - again.content[entry.fqn].double()).abs().max()
        assert float(change) == entry.max_abs_error
