"""Models on the command line: built by ``--model``, or found whole in a file.

What converts models is imported where there is one; checkpoints need none of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnconvert import checkpoint as files
from wnconvert.errors import (
    CheckpointError,
    CopyError,
    NothingToConvertError,
    OptionError,
    TracingError,
    VerificationError,
    described,
)
from wnconvert.report import Report
from wnconvert_cli.imports import import_named
from wnconvert_cli.texts import suggest

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from wnconvert import api
    from wnconvert.checkpoint import Checkpoint
    from wnconvert.scheme import Scheme
    from wnconvert.selection import Dim, Selection, WeightedOp


def is_model(content: Any) -> bool:
    """Return whether the content of a checkpoint is a whole model."""
    from torch import nn

    return isinstance(content, nn.Module)


def is_program(content: Any) -> bool:
    """Return whether the content of a checkpoint is a program of torch.export."""
    from torch.export import ExportedProgram

    return isinstance(content, ExportedProgram)


def build(spec: str) -> nn.Module:
    """Return the model that ``package.module:factory``, or ``path/file.py:factory``, makes; see `imports`.

    What its code prints goes to stderr.

    Raises:
        OptionError: there is no such factory, or it fails, or does not make a module.
    """
    module, colon, factory = spec.rpartition(":")
    if not (module and colon and factory):
        raise OptionError(f"--model is {spec!r}; it must be of the form package.module:factory, or file.py:factory")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model = attrgetter(factory)(import_named(module))()
    except OptionError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything at all
        raise OptionError(f"--model {spec!r} failed: {shorten(described(error))}") from error
    if not is_model(model):
        raise OptionError(f"--model {spec!r} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def plain(model: nn.Module) -> nn.Module:
    """Return a model without hooks and parametrizations that compose its weights: files are converted by plain ones.

    What a forward computes from its parameters stays, for its keys are those of the parameters.
    """
    from wnconvert.graph.copying import clone
    from wnconvert.modules.foreign.reparametrized import fold_reparametrized
    from wnconvert.modules.inplace import fold_in_place
    from wnconvert.selection import Selection

    try:
        work = clone(model)
    except CopyError:
        return model
    report = fold_in_place(work, Selection()) + fold_reparametrized(work, Selection())
    return work if report.modified else model


def require_fit(models: Iterable[nn.Module], checkpoint: Checkpoint, path: Path) -> None:
    """Check that some state dict of the checkpoint loads strictly into one of some models.

    Raises:
        CheckpointError: none does.
    """
    reasons = []
    for model, found in product(models, files.find_state_dicts(checkpoint.content)):
        try:
            model.load_state_dict(found.entries, strict=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            lines = str(error).splitlines()
            reasons.append(" ".join(lines[1:2] or lines[:1]).strip())
        else:
            return
    reason = shorten(reasons[0]) if reasons else "the file holds none"
    raise CheckpointError(f"no state dict in {str(path)!r} fits the model strictly: {reason}")


def weighted_ops(model: nn.Module | ExportedProgram, selection: Selection) -> list[WeightedOp]:
    """Return the weighted ops of a model, having checked the op names of the selection against them.

    Raises:
        OptionError: the model has no op of that name.
    """
    from wnconvert import api

    ops = api.find_weighted_ops(model)
    names = {name for op in ops for name in op.ops}
    for name in selection.ops:
        if name not in names:
            raise OptionError(f"the model has no weighted op {name!r}{suggest(name, names)}")
    return ops


def shapes_in(content: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a checkpoint's content by dotted name."""
    tree = content.state_dict if is_program(content) else content
    tree = dict(content.state_dict()) if is_model(content) else tree
    found = files.find_state_dicts(tree)
    return {each.fqn(name): tuple(tensor.shape) for each in found for name, tensor in each.tensors.items()}


def shapes_of(report: Report, *contents: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of converted weights: of the plain one, or, where none has that name, of the part as large."""
    known: dict[str, tuple[int, ...]] = {}
    for content in contents:
        known |= shapes_in(content)
    found = {}
    for entry in report.converted:
        parts = [known[key] for key in entry.keys if key in known]
        shape = known.get(entry.fqn) or max(parts, key=prod, default=None)
        if shape is not None:
            found[entry.fqn] = shape
    return found


def apply_whole(
    model: nn.Module | ExportedProgram, scheme: str | Scheme, dim: Dim | str, selection: Selection
) -> api.Conversion | api.ConvertedProgram:
    """Apply to a whole model from a file: as a graph, which loads without wnconvert, if it has a sound one."""
    from torch.export import ExportedProgram

    from wnconvert import api

    if isinstance(model, ExportedProgram):
        return api.apply(model, scheme, dim=dim, selection=selection, inplace=True)

    try:
        return api.apply(model, scheme, dim=dim, selection=selection, how="graph")
    except TracingError as error:
        converted, report = api.apply(model, scheme, dim=dim, selection=selection)
        note = f"the file needs wnconvert to be loaded, for the model was converted in place: {error}"
        return api.Conversion(converted, replace(report, notes=(*report.notes, note)))


def fold_and_fuse(
    model: nn.Module | ExportedProgram, selection: Selection, fusions: tuple[str, ...] | None
) -> api.Conversion | api.ConvertedProgram:
    """Fold what is computed, if anything is, and then move norms into weights: they are fused through weight norm."""
    from wnconvert import api

    report = Report()
    with contextlib.suppress(NothingToConvertError):
        model, report = api.fold(model, selection=selection)
    done = api.fuse(model, fusions, selection=selection, inplace=True)
    # a weight that is plain has nothing to be told of
    kept = replace(report, skipped=tuple(each for each in report.skipped if each.missed))
    return done._replace(report=kept + done.report)


def verify_keys(written: nn.Module, report: Report, *, splits: bool) -> None:
    """Check that a written model has the parts of the converted weights, or the weights, and never both.

    Raises:
        VerificationError: it does not.
    """
    state = written.state_dict()
    for entry in report.converted:
        present, absent = (entry.keys, (entry.fqn,)) if splits else ((entry.fqn,), entry.keys)
        missing = [key for key in present if key not in state]
        left = [key for key in absent if key in state]
        if missing or left:
            what = f"has no {missing[0]!r}" if missing else f"still has {left[0]!r}"
            raise VerificationError(f"the written model {what}; nothing was kept")


def verify_weights(source: nn.Module, written: nn.Module, report: Report) -> None:
    """Check that folding a written model, on the device that it is on, gives the weights of the source, bit for bit.

    Raises:
        VerificationError: it does not.
    """
    from wnconvert import api

    before, after = source.state_dict(), api.fold(written).model.state_dict()
    for entry in report.converted:
        if entry.fqn not in after or not files.bits_equal(before[entry.fqn], after[entry.fqn].cpu()):
            raise VerificationError(f"{entry.fqn!r} in the written file is not what it was; nothing was kept")


def shorten(text: str, limit: int = 200) -> str:
    """Return ``text``, cut where it is too long for a line."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
