"""Folding a DoRA adapter of PEFT, a folder with tensors and ``adapter_config.json``, into its base checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.convert import Conversion, fold
from wnconvert.checkpoint.files import load
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Precision
from wnconvert.checkpoint.layouts.dora import from_config
from wnconvert.checkpoint.tree import StateDict
from wnconvert.errors import CheckpointError
from wnconvert.selection import Selection

#: what PEFT puts in front of the names of the base.
PREFIX = "base_model.model."
FILES = ("adapter_model.safetensors", "adapter_model.bin")


def fold_adapter(
    base: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    selection: Selection | None = None,
    precision: Precision = "runtime",
) -> Conversion:
    """Compose the weights of a base checkpoint with the adapter in ``folder``, as PEFT merges them.

    Tensors that the adapter holds whole (``modules_to_save``) take the place of those of the base.

    Args:
        base: a state dict, not nested; it is not modified.
        folder: what `peft.PeftModel.save_pretrained` wrote.
        selection: which weights; the adapter has no effect on the others.
        precision: the bits that PEFT computes here, or those of float64 rounded once.

    Raises:
        CheckpointError: the folder holds no DoRA adapter, or it does not fit the base.
        NothingToConvertError: no weight was converted.
    """
    folder = Path(folder)
    config, tensors = _config(folder), _tensors(folder)
    own = StateDict((), base.content).tensors if isinstance(base.content, dict) else {}
    if not own:
        raise CheckpointError("the base holds no state dict at its root; save that alone to fold an adapter into it")
    whole = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if ".lora_" not in key}
    if strange := [key for key in whole if key not in own]:
        raise CheckpointError(f"the adapter does not fit the base, which has no {strange[0]!r}")
    factors = {key: tensor for key, tensor in tensors.items() if ".lora_" in key}
    if taken := [key for key in factors if key in own]:
        raise CheckpointError(f"the base has a key of the adapter, {taken[0]!r}")
    content = {**base.content, **whole, **factors}
    conversion = fold(
        replace(base, content=content), selection=selection, presets=[from_config(config)], precision=precision
    )
    bad = [entry for entry in conversion.report.skipped if not entry.reason.startswith(("not included", "excluded"))]
    if bad:
        raise CheckpointError(f"the adapter cannot be folded: {bad[0].fqn!r}: {bad[0].reason}")
    kept = {key: value for key, value in conversion.checkpoint.content.items() if key not in factors}
    return Conversion(replace(conversion.checkpoint, content=kept), conversion.report)


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{str(folder)!r} is no adapter folder: it has no readable adapter_config.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(path)!r} is damaged: it holds no mapping")
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in FILES if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(f"{str(folder)!r} is no adapter folder: it has neither {FILES[0]} nor {FILES[1]}")
    content = load(path).content
    return StateDict((), content).tensors if isinstance(content, dict) else {}
