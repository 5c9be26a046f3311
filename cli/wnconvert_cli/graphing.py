"""What `graph` does: trace a model, convert it, and say what is to be marked."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert_cli import models
from wnconvert_cli.deploying import Wanted, read_model
from wnconvert_cli.imports import local_imports

if TYPE_CHECKING:
    from wnconvert.report import Report
    from wnconvert.selection import Selection
    from wnconvert_cli.figures.graphs import Marked


class Graphed(NamedTuple):
    """Two graphs with what is marked, and the report of the conversion between them."""

    marked: Marked
    report: Report


def graphed(wanted: Wanted, scheme: str | None, selection: Selection) -> Graphed:
    """Return the graph of a model before and after: folded, where a weight of it is computed, and else converted.

    Args:
        wanted: the model.
        scheme: the scheme that is applied, whatever is computed already.
        selection: which weights.

    Raises:
        OptionError: options do not go together.
        TracingError: the model has no graph that does what it does.
        NothingToConvertError: nothing was converted.
    """
    from wnconvert import api
    from wnconvert.tracing.tracing import trace
    from wnconvert_cli.figures.graphs import Marked

    if wanted.file is None and (wanted.model or wanted.trust):
        raise OptionError("--model and --trust go with a file; the model is built by its factory")
    with local_imports(), contextlib.redirect_stdout(sys.stderr):
        model = read_model(wanted)
        before = model if models.is_program(model) else trace(model)
        how: dict[str, Any] = {} if models.is_program(model) else {"how": "graph"}
        done = None if scheme else _folded(model, selection, how)
        after, report = done or api.apply(model, scheme or "weight_norm", selection=selection, **how)
    opaque = {**_opaque(before), **_opaque(after)}
    return Graphed(Marked.of(before.graph, after.graph, report, opaque, folded=done is not None), report)


def _folded(model: Any, selection: Selection, how: dict[str, Any]) -> tuple[Any, Report] | None:
    """Return the model folded, with the report, or None where no weight is computed."""
    from wnconvert import api

    with contextlib.suppress(NothingToConvertError):
        after, report = api.fold(model, selection=selection, **how)
        return (after, report) if report.modified else None
    return None


def _opaque(graph: Any) -> dict[str, str]:
    """Return the modules that a graph does not look into, with the reasons; a program has none."""
    found: dict[str, str] = getattr(graph, "meta", {}).get("opaque", {})
    return found
