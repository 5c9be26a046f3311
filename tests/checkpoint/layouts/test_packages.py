"""The layouts of installed packages, against their own modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from wnconvert.checkpoint import Checkpoint, difference, fold, unfold
from wnconvert.checkpoint.adapters.peft import layout_of
from wnconvert.checkpoint.comparing.effective import effective
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.conversions.reference import apply_like
from wnconvert.checkpoint.layout import find_groups, preset
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.errors import CheckpointError

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


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x))


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dora_is_merged_as_peft_merges_it(dtype: torch.dtype, rank_stabilized: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Layers().to(dtype)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_dora=True, use_rslora=rank_stabilized, target_modules=["query", "out"],
        alpha_pattern={"out": 7},
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    layout = layout_of(json.loads((tmp_path / "adapter_config.json").read_text()))
    both = {**base, **adapter}
    groups = find_groups(both, presets=[layout])
    assert [group.stem for group in groups] == ["query.weight", "out.weight"]
    weights = {g.stem: by_layout(g, layout).weight({part: both[key] for part, key in g.keys.items()}) for g in groups}
    live = {key: value for key, value in adapted.state_dict().items() if "query" in key or "out" in key}
    named = {key.removeprefix("base_model.model."): value for key, value in live.items()}
    (again, _) = find_groups(named, presets=[layout])
    assert torch.equal(
        by_layout(again, layout).weight({part: named[key] for part, key in again.keys.items()}), weights["query.weight"]
    ), "the live model's own names are read too"
    merged = adapted.merge_and_unload(safe_merge=True).state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())


def test_what_is_no_dora_adapter_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be understood"):
        layout_of({"use_dora": True})
    layout = layout_of({"use_dora": True, "lora_alpha": 3})
    factors = {
        "base_model.model.q.lora_A.weight": torch.ones(2, 3),
        "base_model.model.q.lora_B.weight": torch.ones(4, 2),
    }
    magnitude = {"base_model.model.q.lora_magnitude_vector": torch.ones(4)}
    cases = {
        "the base has no 'q.weight'": {**factors, **magnitude},
        "its part 'magnitude' is missing": {"q.weight": torch.ones(4, 3), **factors},
        "its parts do not fit together: weight (4, 4), ": {"q.weight": torch.ones(4, 4), **factors, **magnitude},
        "its parts do not fit together: weight (4, 3, 1, 1)": {
            "q.weight": torch.ones(4, 3, 1, 1),
            **factors,
            **magnitude,
        },
    }
    for problem, tensors in cases.items():
        (group,) = find_groups(tensors, presets=[layout])
        assert (group.problem or "").startswith(problem)


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
