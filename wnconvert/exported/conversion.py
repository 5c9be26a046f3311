"""Convert the weights of an exported program: a program in gives a program out, which is not exported again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule

from wnconvert.exported.holding import hold
from wnconvert.exported.inside import read_inside
from wnconvert.exported.lifting import lift
from wnconvert.exported.proof import prove
from wnconvert.passes.base import ReportingPass
from wnconvert.reasons import Why
from wnconvert.report import Report, Skipped


def convert(
    program: ExportedProgram, pass_: ReportingPass, share: bool, example_inputs: tuple[Any, ...] | None = None
) -> tuple[ExportedProgram, Report]:
    """Run a pass on a program, and the result beside the program on inputs of several sizes.

    Args:
        program: the program; it is left as it is.
        pass_: what to do.
        share: whether the tensors that stay are the program's own, or copies.
        example_inputs: positional arguments to run both on, besides the program's own example.

    Returns:
        the converted program and what was done.

    Raises:
        KindError: the program has names that cannot be those of a module.
        VerificationError: an output differs.
    """
    held = hold(program, share)
    pass_.requires(held.module)
    report = pass_.call(held.module).report
    pass_.ensures(held.module)
    report += Report(skipped=tuple(_inside_of_calls(held.module, report)))
    converted = lift(held, program)
    if report.modified and not report.fused:
        inexact = "outputs were not compared, for the scheme does not keep the weights as they are"
        note = prove(program, converted, example_inputs) if report.exact else inexact
        report = replace(report, notes=(*report.notes, note))
    return converted, report


def _inside_of_calls(module: GraphModule, report: Report) -> Iterator[Skipped]:
    """Yield the weights that a call of another graph reads, such as that of ``cond``, and that no report names."""
    named = {name for entry in report.converted for name in (entry.fqn, *entry.keys)}
    named |= {name for entry in report.skipped for name in (entry.fqn, *entry.keys)}
    for each in read_inside(module):
        own = {*each.names, *each.keys}
        if named.isdisjoint(own):
            named |= own
            reason = Why.OPAQUE(read="inside", module=each.graph, kind=each.kind)
            yield Skipped(each.names[0], "", reason, each.keys)
