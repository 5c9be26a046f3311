"""ONNX models among the inputs of commands: they are no checkpoints, and their graph is asked instead of names."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert.checkpoint.foreign import is_onnx
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.onnx_files.comparing import compare as compare_files
from wnconvert.onnx_files.conversion import Outcome, check_output, fold_file
from wnconvert.onnx_files.inspecting import inspect_file as inspect_file
from wnconvert.onnx_files.measuring import effective as effective
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.streams import STREAM

if TYPE_CHECKING:
    from wnconvert.checkpoint import Comparison
    from wnconvert.device import Device

TITLE = "ONNX"
#: the options of `Scope` that choose weights by what a graph tells too
_ASKED = ("include", "exclude", "min_size")


def is_one(path: Path) -> bool:
    """Return whether a file is an ONNX model."""
    try:
        return path.is_file() and is_onnx(Opened(path))
    except OSError:
        return False


def beside(source: Path, suffix: str, writing: Writing) -> Path:
    """Return ``model.folded.onnx`` for ``model.onnx``."""
    source = paths.named(source)
    own = source.suffix if source.suffix[1:2].isalpha() else ""
    name = f"{source.name.removesuffix(own)}.{suffix}{own}"
    return (writing.output_dir or source.parent) / name


def check(scope: Scope, writing: Writing, opening: Opening) -> None:
    """Check that nothing is asked for that only a checkpoint has.

    Raises:
        OptionError: something is.
    """
    require_cpu(scope.where)
    given = [
        each.name
        for each in fields(Scope)
        if each.name not in (*_ASKED, "device") and getattr(scope, each.name) != each.default
    ]
    given += [each.name for each in fields(Opening) if getattr(opening, each.name) != each.default]
    given += ["format"] if writing.format else []
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise OptionError(f"an ONNX model tells by its graph which weights are computed; leave out {option}")
    if writing.output == STREAM:
        raise OptionError("an ONNX model may have a second file of data, so it cannot go to standard output; give -o")
    if writing.output is not None and writing.output.suffix.lower() in (".pt", ".pth", ".safetensors", ".npz", ".bin"):
        raise OptionError(f"output {str(writing.output)!r} is named like another container, but it will be {TITLE}")


def require_cpu(device: Device) -> None:
    """Check that no other device is wanted.

    Raises:
        OptionError: one is.
    """
    if not device.is_cpu:
        raise OptionError("onnxruntime computes the weights of an ONNX model on the CPU; leave out --device")


def fold(source: Path, output: Path, scope: Scope, writing: Writing) -> Outcome:
    """Fold a model; with ``--dry-run``, only say what would be done.

    Raises:
        WnconvertError: it cannot be folded.
    """
    if not writing.dry_run:
        check_output(output, source, force=writing.force)
    is_all = all(getattr(scope, each.name) == each.default for each in fields(Scope) if each.name in _ASKED)
    selection = None if is_all else scope.selection
    wanted = None if writing.dry_run else output
    return fold_file(source, wanted, selection=selection, strict=writing.strict, force=writing.force)


def compare(first: Path, second: Path, tolerance: float, opening: Opening) -> Comparison:
    """Compare two models, tensor by tensor; a weight that is computed is what comes of that.

    Raises:
        NothingToConvertError: they have no tensor in common.
    """
    from wnconvert.checkpoint.comparing.comparison import Compared, Comparison

    if opening != Opening():
        raise OptionError("an ONNX model has no code of Python; leave out --trust and --state-dict")
    pairs, only_first, only_second = compare_files(first, second)
    if not pairs:
        raise NothingToConvertError("nothing to compare: the files have no tensor of the same name")
    compared = [
        Compared(
            name=each.name,
            layouts=("computed" if each.computed[0] else "plain", "computed" if each.computed[1] else "plain"),
            equal=each.equal,
            ulps=0 if each.equal else None,
            max_abs=each.max_abs,
            max_rel=each.max_rel,
            problem=each.problem,
        )
        for each in pairs
    ]
    return Comparison(tuple(compared), tuple(only_first), tuple(only_second), tolerance)
