"""One small member of every family of timm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo.check import Case, Inputs


@dataclass(frozen=True)
class Member:
    """A member of a family.

    Attributes:
        name: the model of the family's module that has the fewest parameters, in timm 1.0.31.
        size: height and width of the input, where the model takes a smaller one than its default.
        options: arguments that make it smaller still.
    """

    name: str
    size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """Yield a case for every family of the installed timm."""
    import timm

    for family in timm.models.list_modules():
        # a family that came later than this list has no member here, and is left to fail loudly
        member = MEMBERS.get(family, Member(family))
        yield Case("timm", family, member.name, partial(build, member))


def build(member: Member) -> tuple[nn.Module, Inputs]:
    """Make a model with random weights and its input: two images, for batch norm in training mode."""
    import timm

    model = timm.create_model(member.name, num_classes=10, **member.options)
    channels, *size = model.default_cfg["input_size"]
    if member.size:
        size = [member.size, member.size]
    return model, ((torch.randn(2, channels, *size),), {})


#: family -> its member
MEMBERS: dict[str, Member] = {
    "beit": Member("beit_base_patch16_224", 64, {"img_size": 64, "depth": 2}),
    "byoanet": Member("halonet_h1"),
    "byobnet": Member("test_byobnet"),
    "cait": Member("cait_xxs24_224"),
    "coat": Member("coat_tiny"),
    "convit": Member("convit_tiny"),
    "convmixer": Member("convmixer_768_32", 64),
    "convnext": Member("test_convnext"),
    "cpubone": Member("cpubone_nano"),
    "crossvit": Member("crossvit_tiny_240"),
    "csatv2": Member("csatv2"),
    "cspnet": Member("cs3darknet_focus_s"),
    "cspnext": Member("cspnext_tiny"),
    "davit": Member("davit_tiny", 112),
    "deepseek_vit": Member("deepseek_vit_412m", 224, {"depth": 2}),
    "deit": Member("deit_tiny_patch16_224"),
    "densenet": Member("densenet121", 112),
    "dla": Member("dla46x_c"),
    "dpn": Member("dpn48b"),
    "edgenext": Member("edgenext_xx_small"),
    "efficientformer": Member("efficientformer_l1"),
    "efficientformer_v2": Member("efficientformerv2_s0"),
    "efficientnet": Member("test_efficientnet"),
    "efficientvim": Member("efficientvim_m1"),
    "efficientvit_mit": Member("efficientvit_b0"),
    "efficientvit_msra": Member("efficientvit_m0"),
    "eva": Member("vit_tiny_patch16_dinov3_qkvb"),
    "fasternet": Member("fasternet_t0"),
    "fastvit": Member("fastvit_t8"),
    "focalnet": Member("focalnet_tiny_srf", 112),
    "gcvit": Member("gcvit_xxtiny"),
    "gemma4_vit": Member("gemma4_vit_167m", 192, {"depth": 2}),
    "ghostnet": Member("ghostnet_050"),
    "hardcorenas": Member("hardcorenas_b"),
    "hgnet": Member("hgnetv2_b0"),
    "hiera": Member("hiera_tiny_224"),
    "hieradet_sam2": Member("sam2_hiera_tiny", 256),
    "hrnet": Member("hrnet_w18_small"),
    "iformer": Member("iformer_t"),
    "inception_next": Member("inception_next_atto"),
    "inception_resnet_v2": Member("inception_resnet_v2", 139),
    "inception_v3": Member("inception_v3", 139),
    "inception_v4": Member("inception_v4", 139),
    "lcnetv2": Member("lcnetv2_small"),
    "levit": Member("levit_128s"),
    "lowformer": Member("lowformer_b0"),
    "mambaout": Member("test_mambaout"),
    "maxxvit": Member("test_coatnet"),
    "metaformer": Member("poolformerv2_s12"),
    "mlp_mixer": Member("gmlp_ti16_224"),
    "mobilenetv3": Member("mobilenetv3_small_050"),
    "mobilenetv5": Member("mobilenetv5_base", 128),
    "mobilevit": Member("mobilevit_xxs"),
    "mvitv2": Member("mvitv2_tiny"),
    "naflexvit": Member("naflexvit_base_patch16_parfac_gap", None, {"depth": 2}),
    "nasnet": Member("nasnetalarge", 139),
    "nest": Member("nest_tiny"),
    "nextvit": Member("nextvit_small"),
    "nfnet": Member("test_nfnet"),
    "pit": Member("pit_ti_224"),
    "pnasnet": Member("pnasnet5large", 139),
    "pvt_v2": Member("pvt_v2_b0"),
    "qwen3_vit": Member("qwen3_vit_88m", 256, {"depth": 2}),
    "rdnet": Member("rdnet_tiny"),
    "regnet": Member("regnetx_002"),
    "repghost": Member("repghostnet_050"),
    "repvit": Member("repvit_m1"),
    "res2net": Member("res2next50"),
    "resnest": Member("resnest14d"),
    "resnet": Member("test_resnet"),
    "resnetv2": Member("resnetv2_18"),
    "rexnet": Member("rexnet_100"),
    "selecsls": Member("selecsls42"),
    "senet": Member("legacy_seresnet18"),
    "sequencer": Member("sequencer2d_s"),
    "shvit": Member("shvit_s1"),
    "sknet": Member("skresnet18"),
    "starnet": Member("starnet_s050"),
    "swiftformer": Member("swiftformer_xs"),
    "swin_transformer": Member("swin_tiny_patch4_window7_224"),
    "swin_transformer_v2": Member("swinv2_tiny_window8_256"),
    "swin_transformer_v2_cr": Member("swinv2_cr_tiny_224"),
    "tiny_vit": Member("tiny_vit_5m_224"),
    "tnt": Member("tnt_s_legacy_patch16_224"),
    "tresnet": Member("tresnet_m"),
    "twins": Member("twins_svt_small"),
    "vgg": Member("vgg11", 64),
    "visformer": Member("visformer_tiny"),
    "vision_transformer": Member("test_vit"),
    "vision_transformer_hybrid": Member("vit_tiny_r_s16_p8_224"),
    "vision_transformer_relpos": Member("test_vit_relpos"),
    "vision_transformer_sam": Member("samvit_base_patch16_224", None, {"depth": 2}),
    "vitamin": Member("vitamin_small_224"),
    "volo": Member("volo_d1_224"),
    "vovnet": Member("ese_vovnet19b_slim_dw"),
    "xception": Member("legacy_xception", 128),
    "xception_aligned": Member("xception41p", 128),
    "xcit": Member("xcit_nano_12_p8_224"),
}
