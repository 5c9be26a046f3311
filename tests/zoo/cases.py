"""All cases of the zoo."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from tests.zoo import other_models, timm_models, transformers_models
from tests.zoo.check import Case

#: group -> what must be installed for it
GROUPS = {"timm": ("timm",), "transformers": ("transformers",), "other": ("transformers", "torchvision")}


def cases() -> Iterator[Case]:
    """Yield the cases of every group whose packages are installed."""
    for group, module in (("timm", timm_models), ("transformers", transformers_models), ("other", other_models)):
        if all(importlib.util.find_spec(package) for package in GROUPS[group]):
            yield from module.cases()


#: families of timm, and other models, whose check takes more than ten seconds
SLOW = frozenset(
    [
        "byoanet",
        "coat",
        "deepseek_vit",
        "focalnet",
        "gcvit",
        "gemma4_vit",
        "hiera",
        "hieradet_sam2",
        "hrnet",
        "iformer",
        "inception_resnet_v2",
        "inception_v4",
        "lcnetv2",
        "levit",
        "lowformer",
        "metaformer",
        "mlp_mixer",
        "mobilenetv3",
        "mobilenetv5",
        "mvitv2",
        "naflexvit",
        "nasnet",
        "nest",
        "nextvit",
        "pnasnet",
        "qwen3_vit",
        "rdnet",
        "repvit",
        "res2net",
        "selecsls",
        "sequencer",
        "swin_transformer",
        "swin_transformer_v2",
        "swin_transformer_v2_cr",
        "tnt",
        "tresnet",
        "twins",
        "vgg",
        "vitamin",
        "volo",
        "xcit",
        "torchvision-vit_b_16",
    ]
)


def is_slow(case: Case) -> bool:
    """Return whether a case is left to those who have the time, and out of CI."""
    return case.family in SLOW
