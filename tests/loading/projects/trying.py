"""What happens to the folded file of a project: with the lines that load it, and without them."""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wnconvert
from tests.loading.projects.rows import Inputs, Row
from tests.zoo.check import assert_same
from wnconvert import checkpoint


@dataclass(frozen=True)
class Tried:
    """What was seen.

    Attributes:
        layout: how the project's own file holds its weights.
        folded: how many weights were folded.
        lost: how many of the tensors of the class are random if the folded file is loaded as the project's own is.
        strictly: whether it does not load strictly in that way.
        removal: what the model's own ``remove_weight_norm`` does.
    """

    layout: str
    folded: int
    lost: int
    strictly: bool
    removal: str


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs in evaluation, with the same random numbers each time."""
    torch.manual_seed(7)
    args, options = copy.deepcopy(inputs)
    with torch.no_grad():
        return model.eval()(*args, **options)


def moved(model: nn.Module) -> nn.Module:
    """Return the model with magnitudes that are not the norms of their directions, as after training."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_g", "original0")) and parameter.requires_grad:
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    return model


def attempt(row: Row, folder: Path) -> Tried:
    """Save a model as its project does, fold the file, and load that: with the lines, to the same bits, and without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the projects' own code
        return _attempt(row, folder)


def _attempt(row: Row, folder: Path) -> Tried:
    torch.manual_seed(0)
    model, inputs = row.make()
    moved(model)
    expected = run(model, inputs)
    row.write(model, folder / "own")
    source = checkpoint.load(folder / "own")
    conversion = checkpoint.fold(source)
    assert conversion.report.skipped == ()
    checkpoint.save(conversion.checkpoint, folder / "folded", source=folder / "own")
    said = conversion.loads_into
    torch.manual_seed(1)
    names = {"wnconvert": wnconvert, "checkpoint": checkpoint, "path": folder / "folded", "config": None}
    names |= row.names(model)
    for line in row.lines:
        exec(line, names)
    assert_same(run(names["model"], inputs), expected, "outputs")  # type: ignore[arg-type]
    assert not any("weight_g" in key or "original0" in key for key in names["model"].state_dict())  # type: ignore[attr-defined]
    lost, strictly = _without(row, model, folder / "folded")
    if row.save is None:  # what is said of the folder is so
        assert said.text.startswith(f"{type(model).__name__}.from_pretrained(path)") is not strictly
        assert lost <= 2 * len(conversion.report.converted)
    _assert_code_loads(said.code, model, inputs, expected, folder / "folded", row)
    keys = next(iter(conversion.report.converted)).keys
    layout = "parametrization" if any("parametrizations" in key for key in keys) else "hook"
    return Tried(layout, len(conversion.report.converted), lost, strictly, _removal(row))


def _assert_code_loads(
    code: tuple[str, ...], model: nn.Module, inputs: Inputs, expected: Any, path: Path, row: Row
) -> None:
    """Assert that the code which a conversion says loads its output does, where the class need not be known."""
    if row.save is None:
        names = {"transformers": sys.modules["transformers"], "wnconvert": wnconvert, "path": path}
    else:
        names = {"wnconvert": wnconvert, "path": path, "model": row.make()[0]}
    if row.place != ("state_dict", "backbone"):  # of which only the reader knows
        exec("\n".join(code), names)
        assert_same(run(names["model"], inputs), expected, "outputs")


def _without(row: Row, model: nn.Module, path: Path) -> tuple[int, bool]:
    """Return how many tensors are random after loading as ever, and whether that is an error if asked for strictly."""
    if row.save is None:
        _, info = type(model).from_pretrained(path, output_loading_info=True)  # type: ignore[attr-defined]
        return len(info["missing_keys"]), bool(info["missing_keys"])
    entries: Any = torch.load(path)
    for name in row.place:
        inside = {key[len(name) + 1 :]: value for key, value in entries.items() if key.startswith(f"{name}.")}
        entries = entries.get(name, inside)
    entries = {key.removeprefix("module."): value for key, value in entries.items()}
    missing = row.make()[0].load_state_dict(entries, strict=False).missing_keys
    return len(missing), bool(missing)


def _removal(row: Row) -> str:
    """Return what becomes of the model's own way to a plain model."""
    model, _ = row.make()
    if not hasattr(model, "remove_weight_norm"):
        return "has none"
    try:
        model.remove_weight_norm()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - the code of others
        return f"raises {type(error).__name__}"
    left = any("weight_g" in key or "original0" in key for key in model.state_dict())
    return "leaves some" if left else "works"
