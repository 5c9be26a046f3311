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
from wnconvert.checkpoint.layout import read_preset
from wnconvert.report import Converted


@dataclass(frozen=True)
class Tried:
    """What was seen.

    Attributes:
        names: what the project's own file has of the first weight.
        folded: how many weights were folded.
        lost: how many of the tensors of the class are random if the folded file is loaded as the project's own is.
        again: whether none is, and the model still computes something else.
        removal: what the model's own ``remove_weight_norm`` does.
    """

    names: tuple[str, ...]
    folded: int
    lost: int
    again: bool
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
            if name.endswith(("_g", "original0", ".gain")) and parameter.requires_grad:
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
    expected = run(model if row.merged is None else row.merged(model), inputs)
    row.write(model, folder / "own")
    source = checkpoint.load(folder / "own")
    if row.merged is not None:
        conversion = checkpoint.fold_adapter(source, folder / "adapter")
    else:
        conversion = checkpoint.fold(source, presets=[read_preset(row.preset)] if row.preset else [])
    assert conversion.report.skipped == ()
    checkpoint.save(conversion.checkpoint, folder / "folded", source=folder / "own")
    said = conversion.loads_into
    torch.manual_seed(1)
    names = {"wnconvert": wnconvert, "checkpoint": checkpoint, "path": folder / "folded", "config": None}
    names |= row.names(model)
    for line in row.lines:
        exec(line, names)
    assert_same(run(names["model"], inputs), expected, "outputs")  # type: ignore[arg-type]
    assert not any("weight_g" in key or "original" in key for key in names["model"].state_dict())  # type: ignore[attr-defined]
    as_ever, lost = _without(row, model, folder / "folded")
    if row.save is None:  # what is said of the folder is so
        assert said.text.startswith(f"{type(model).__name__}.from_pretrained(path)") is not bool(lost)
        assert lost <= 2 * len(conversion.report.converted)
    _assert_code_loads(said.code, model, inputs, expected, folder / "folded", row)
    first = conversion.report.converted[0]
    again = not lost and _differs(run(as_ever, inputs), expected)
    return Tried(_names(first), len(conversion.report.converted), lost, again, _removal(row))


def _names(entry: Converted) -> tuple[str, ...]:
    """Return what the keys of a weight add to its name; for adapters and gains, to that of its module."""
    module, _, name = entry.fqn.rpartition(".")
    under = (f"{module}.parametrizations.{name}.", f"{module}.{name}", f"{module}.", f"base_model.model.{module}.")
    return tuple(next(key[len(each) :] for each in under if key.startswith(each)) or name for key in entry.keys)


def _assert_code_loads(
    code: tuple[str, ...], model: nn.Module, inputs: Inputs, expected: Any, path: Path, row: Row
) -> None:
    """Assert that the code which a conversion says loads its output does, where the class need not be known."""
    if row.save is None:
        names = {"transformers": sys.modules["transformers"], "wnconvert": wnconvert, "path": path}
    else:
        names = {"wnconvert": wnconvert, "path": path, "model": _own(row)}
    if row.place != ("state_dict", "backbone"):  # of which only the reader knows
        exec("\n".join(code), names)
        assert_same(run(names["model"], inputs), expected, "outputs")


def _differs(actual: Any, expected: Any) -> bool:
    try:
        assert_same(actual, expected, "outputs")
    except AssertionError:
        return True
    return False


def _own(row: Row) -> nn.Module:
    """Return what the project loads its files into."""
    model = row.make()[0]
    return model if row.merged is None else row.merged(model)


def _without(row: Row, model: nn.Module, path: Path) -> tuple[nn.Module, int]:
    """Return the model after loading as ever, and how many of its tensors are random."""
    if row.save is None:
        loaded, info = type(model).from_pretrained(path, output_loading_info=True)  # type: ignore[attr-defined]
        return loaded, len(info["missing_keys"])
    entries: Any = torch.load(path)
    for name in row.place:
        inside = {key[len(name) + 1 :]: value for key, value in entries.items() if key.startswith(f"{name}.")}
        entries = entries.get(name, inside)
    entries = {key.removeprefix("module."): value for key, value in entries.items()}
    loaded = _own(row)
    return loaded, len(loaded.load_state_dict(entries, strict=False).missing_keys)


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
