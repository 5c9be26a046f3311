"""Reading what PEFT saved: an adapter folder, or the state dict of a whole model with an adapter in it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.content.tree import StateDict
from wnconvert.checkpoint.files import load
from wnconvert.checkpoint.layouts.dora import PREFIX, Dora, FactorKey
from wnconvert.checkpoint.storage.paths import read_small
from wnconvert.errors import CheckpointError

FILES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG = "adapter_config.json"
#: larger configs are not read.
LARGEST_CONFIG = 1 << 24
#: options whose adapters mean something else than W + s B A, or W with the magnitude.
_OTHERS = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
)
#: values of ``init_lora_weights`` with which PEFT changes the base before it adds the adapter, or rounds otherwise.
_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
_OF_OTHERS = re.compile(r"\.(?:lora_|hada_|lokr_|ia3_|oft_|trainable_tokens_)")
_SAVED = re.compile(r"(?P<module>.+)\.(?:original_module|modules_to_save\.(?P<name>[^.]+))\.(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True)
class Adapter:
    """An adapter, read but for what the base says.

    Attributes:
        layout: the options.
        factors: the tensors of `Dora`, by key.
        whole: tensors that take the place of those of the base, by name in the model that was adapted.
        new: names of modules whose tensors the base may lack.
    """

    layout: Dora
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    new: tuple[str, ...] = ()


def read_adapter(source: str | os.PathLike[str]) -> Adapter:
    """Read an adapter folder, or its file of tensors with the config beside it, or the config alone.

    Raises:
        CheckpointError: it is no adapter, or none of LoRA or DoRA.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".json":
        return Adapter(layout_of(_config(path)))
    if not path.exists():
        raise CheckpointError(f"{str(path)!r} is no adapter folder: there is no such file")
    config = _config(folder / CONFIG)
    layout, modules = layout_of(config), config.get("modules_to_save") or []
    if not isinstance(modules, list):
        raise CheckpointError(
            f"the adapter's config cannot be understood: 'modules_to_save' is {modules!r:.60}, no list"
        )
    file = path if path.is_file() else next((folder / name for name in FILES if (folder / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{str(folder)!r} is no adapter folder: it has neither {FILES[0]} nor {FILES[1]}")
    content = load(file).content
    tensors = StateDict((), content).tensors if isinstance(content, dict) else {}
    factors = {key: tensor for key, tensor in tensors.items() if FactorKey.of(key)}
    if not factors:
        raise CheckpointError(f"{str(file)!r} holds no LoRA or DoRA adapter: no key has 'lora_A' or 'lora_embedding_A'")
    whole = {_plain(key.removeprefix(PREFIX)): tensor for key, tensor in tensors.items() if key not in factors}
    if strange := [key for key in whole if _OF_OTHERS.search(key)]:
        raise CheckpointError(f"the key {strange[0]!r} is of an adapter that is not LoRA or DoRA; merge it with peft")
    return Adapter(layout, factors, whole, tuple(map(str, modules)))


def layout_of(config: Mapping[str, Any]) -> Dora:
    """Return the layout that the content of an ``adapter_config.json`` means.

    Raises:
        CheckpointError: it is not the config of a LoRA or DoRA adapter.
    """
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise CheckpointError(f"the adapter is of the method {kind!r}, not LoRA or DoRA; merge it with peft")
    if used := [option for option in _OTHERS if config.get(option)]:
        raise CheckpointError(f"the adapter's config has {used[0]!r}: {config[used[0]]!r:.60}; merge it with peft")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_INITS):
        raise CheckpointError(
            f"the adapter's 'init_lora_weights' is {start!r:.60}, which is not over the weights of the base; save it "
            "with path_initial_model_for_weight_conversion, or merge it with peft"
        )
    pattern = config.get("alpha_pattern") or {}
    if "lora_alpha" not in config or not isinstance(pattern, Mapping):
        raise CheckpointError(
            "the adapter's config cannot be understood: it has no 'lora_alpha', or no mapping of them"
        )
    return Dora(
        alpha=_number(config, "lora_alpha"),
        rank_stabilized=_flag(config, "use_rslora"),
        fan_in_fan_out=_flag(config, "fan_in_fan_out"),
        alpha_pattern=tuple((str(name), _number(pattern, name)) for name in pattern),
        magnitudes=_flag(config, "use_dora"),
    )


def separated(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str | None], dict[str, Tensor]]:
    """Take the state dict of a live PEFT model apart.

    Returns:
        Of each key the name in the plain model, or None where it has no place there; and the tensors of the adapter.

    Raises:
        CheckpointError: there are several adapters in it.
    """
    front = next((key[: key.index(PREFIX) + len(PREFIX)] for key in tensors if PREFIX in key), "")
    keys = {key: key.removeprefix(front) for key in tensors}
    known = {key: found for key, name in keys.items() if (found := FactorKey.of(name))}
    saved = {key: match for key, name in keys.items() if (match := _SAVED.fullmatch(name))}
    kept = {match["module"] for match in saved.values() if match["name"]}
    names = {found.adapter for found in known.values()} | {m["name"] for m in saved.values() if m["name"]}
    if len(names - {None}) > 1:
        listed = ", ".join(map(repr, sorted(name for name in names if name)))
        raise CheckpointError(f"the state dict holds several adapters ({listed}); save one with save_pretrained")
    if strange := [key for key, name in keys.items() if key not in known and _OF_OTHERS.search(name)]:
        raise CheckpointError(f"the key {strange[0]!r} is of an adapter that is not LoRA or DoRA; merge it with peft")
    renamed: dict[str, str | None] = {}
    for key, name in keys.items():
        match = saved.get(key)
        if key in known or (match and not match["name"] and match["module"] in kept):
            renamed[key] = None
        else:
            renamed[key] = f"{match['module']}.{match['rest']}" if match and match["name"] else _plain(name)
    return renamed, {keys[key]: tensors[key] for key in known}


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(read_small(path, LARGEST_CONFIG).decode())
    except OSError as error:
        raise CheckpointError(f"{str(path.parent)!r} is no adapter folder: it has no readable {path.name}") from error
    except CheckpointError:  # it says itself what is wrong, with the name
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {str(error)[:200]}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(path)!r} is damaged: it holds no mapping")
    return config


def _number(config: Mapping[str, Any], option: str) -> float:
    value = config[option]
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise CheckpointError(
            f"the adapter's config cannot be understood: {option!r} is {value!r:.60}, no finite number"
        )
    return number


def _flag(config: Mapping[str, Any], option: str) -> bool:
    value = config.get(option)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(
            f"the adapter's config cannot be understood: {option!r} is {value!r:.60}, not true or false"
        )
    return bool(value)
