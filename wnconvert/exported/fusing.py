"""Fuse the normalizations of an exported program, and measure the result on inputs that the program takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule

from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.exported.conversion import convert
from wnconvert.exported.holding import hold
from wnconvert.exported.running import user_inputs
from wnconvert.fusing.measuring import measure, require_near
from wnconvert.passes.fuse import FusePass
from wnconvert.report import Report


def fuse(
    program: ExportedProgram, pass_: FusePass, share: bool, example_inputs: tuple[Any, ...] | None = None
) -> tuple[ExportedProgram, Report]:
    """Run the pass on a program, and measure what comes of it on the first inputs that it runs on.

    Args:
        program: the program; it is left as it is.
        pass_: what to fuse.
        share: whether the tensors that stay are the program's own, or copies.
        example_inputs: positional arguments to measure on; by default, its own example, or random ones.

    Returns:
        the fused program and what was done.

    Raises:
        KindError: the program has names that cannot be those of a module.
        NothingToConvertError: nothing was fused.
        OptionError: it does not run on ``example_inputs``.
        VerificationError: the fused program is further from float64 than rounding explains.
    """
    fused, report = convert(program, pass_, share)
    if not report.fused:
        raise NothingToConvertError(nothing(report))
    before, after = _runnable(program), _runnable(fused)
    origin = "given" if example_inputs is not None or program.example_inputs is not None else "random"
    for values in user_inputs(program, example_inputs):
        try:
            measured = measure(before, after, tuple(values), origin=origin)
        except OptionError:
            if example_inputs is not None:
                raise
            continue
        return fused, replace(report, measured=require_near(measured))
    note = "the error was not measured, for no inputs are known on which the program runs; give example inputs"
    return fused, replace(report, notes=(*report.notes, note))


def nothing(report: Report) -> str:
    """Return why nothing was fused."""
    reasons = "; ".join(f"{entry.fqn}: {entry.reason}" for entry in report.skipped[:3])
    return f"nothing to fuse: {reasons or 'the model has no such normalization'}"


def _runnable(program: ExportedProgram) -> GraphModule:
    """Return the graph of a program with its tensors, which takes its inputs one by one."""
    module = hold(program).module
    module.recompile()
    return module
