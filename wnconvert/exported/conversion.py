"""Convert the weights of an exported program: a program in gives a program out, which is not exported again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from wnconvert.exported.holding import hold
from wnconvert.exported.lifting import lift
from wnconvert.exported.proof import prove
from wnconvert.graph.entries import Entries, locate
from wnconvert.passes.base import ReportingPass
from wnconvert.reasons import Why
from wnconvert.report import Report, Skipped
from wnconvert.torch_private import OpOverload


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
    entries = Entries(module)
    for node in module.graph.nodes:
        if node.op != "call_function" or isinstance(node.target, OpOverload):
            continue
        fetched = [str(each.target) for each in node.all_input_nodes if each.op == "get_attr"]
        graphs = [name for name in fetched if isinstance(locate(module, name), GraphModule)]
        for name in fetched if graphs else ():
            tensor = entries.tensors.get(name)
            if isinstance(tensor, nn.Parameter) and tensor.dim() >= 2 and tensor.is_floating_point():
                names = [owner.fqn for owner in entries.owners(tensor)]
                if named.isdisjoint(names):
                    named.update(names)
                    kind = getattr(node.target, "__name__", str(node.target))
                    yield Skipped(names[0], "", Why.OPAQUE(read="inside", module=graphs[0], kind=kind))
