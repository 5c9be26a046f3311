"""The tasks that commands set. Making one imports no torch; carrying it out does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from wnconvert import checkpoint
from wnconvert.checkpoint.layout import scheme_of
from wnconvert.errors import CheckpointError, OptionError, WnconvertError
from wnconvert_cli.conversion import Task
from wnconvert_cli.groups import Opening, Scope
from wnconvert_cli.models import apply_whole, fold_and_fuse, is_program

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion, Layout
    from wnconvert.checkpoint.conversions.migration import Target
    from wnconvert.checkpoint.layout import DimHint, Precision
    from wnconvert.checkpoint.weights.outcome import DimOrDefault
    from wnconvert.scheme import Scheme
    from wnconvert.selection import WeightedOp

#: the scheme where neither the user nor the file names one.
DEFAULT = "weight_norm"
#: why `migrate` takes no whole model.
NOT_MIGRATED = "the file holds a whole model, not a state dict; migrate its state dict (--state-dict reads it)"


def split(scope: Scope, scheme: Scheme | None, dim: DimOrDefault) -> Task:
    """Split weights by a scheme, or by those that the file records."""

    def suffix(source: Checkpoint) -> str:
        from wnconvert.checkpoint.conversions.reference import replayed_schemes

        names = replayed_schemes(source, dim=dim, selection=scope.selection, ops=() if scope.model else None)
        return "applied" if len(names) > 1 else next(iter(names), DEFAULT)

    return Task(
        suffix=scheme.name if scheme else suffix,
        convert=lambda source, ops: checkpoint.apply(
            source, scheme, dim=dim, selection=scope.selection, ops=ops, **scope.places
        ),
        convert_model=lambda model: apply_whole(model, scheme or DEFAULT, dim, scope.selection),
        splits=True,
        verify=partial(_give_back, scope),
    )


def _give_back(scope: Scope, source: Checkpoint, conversion: Conversion, written: Checkpoint) -> None:
    """Check that a written file gives its input back, where its weights were computed."""
    checkpoint.verify_apply(source, conversion, written, scope.where)


def split_like(scope: Scope, reference: Path, dim: DimHint, opening: Opening) -> Task:
    """Split weights as they are in another file."""
    return Task(
        suffix="like",
        convert=lambda source, ops: checkpoint.apply_like(
            source, checkpoint.load(reference, **opening.how), dim=dim, **scope.places
        ),
        convert_model=_refuse(OptionError, "--like is for state dicts; the file holds a whole model"),
        splits=True,
        verify=partial(_give_back, scope),
    )


def spell(scope: Scope, layout: Layout, scheme: str | None, dim: DimOrDefault) -> Task:
    """Spell weights as a layout; one that cannot be written is refused before any work."""
    scheme_of(layout, scheme, dim)
    return Task(
        suffix=layout.name,
        convert=lambda source, ops: checkpoint.unfold(
            source, layout, scheme=scheme, dim=dim, selection=scope.selection, ops=ops, **scope.places
        ),
        convert_model=_refuse(OptionError, "--layout is for state dicts; the file holds a whole model"),
        splits=True,
        verify=lambda source, conversion, written: checkpoint.verify_unfold(
            source, conversion, written, layout=layout, dim=dim, device=scope.where
        ),
        cause=f"layout {layout.name} gives weights back up to rounding",
    )


def fold(
    scope: Scope,
    scheme: Scheme | None,
    dim: DimOrDefault,
    presets: Sequence[Layout],
    precision: Precision,
    record: bool,
    fusions: tuple[str, ...] | None = (),
) -> Task:
    """Compose weights by their keys, by what the file records, or by a scheme; fuse norms of whole models."""
    fuses = fusions != ()

    def convert_model(model: Any) -> Any:
        from wnconvert import api

        if scheme is not None or dim != "default":
            raise OptionError("a whole model says itself how its weights are computed; leave out --scheme and --dim")
        if fuses:
            return fold_and_fuse(model, scope.selection, fusions)
        # what was read belongs to nobody else: a program shares what stays of it
        return api.fold(model, selection=scope.selection, inplace=is_program(model))

    def convert(source: Checkpoint, ops: list[WeightedOp] | None) -> Conversion:
        if fuses:
            raise OptionError("--fuse needs the graph of a model; fold a whole one (--trust) or a program, or 'export'")
        return checkpoint.fold(
            source,
            scheme=scheme,
            dim=dim,
            selection=scope.selection,
            ops=ops,
            presets=presets,
            precision=precision,
            record=record,
            **scope.places,
        )

    return Task(
        suffix="fused" if fuses else "folded",
        convert=convert,
        convert_model=convert_model,
        takes_onnx=scheme is None and dim == "default" and not presets and not fuses,
    )


def fold_adapter(scope: Scope, adapter: Path | Any, precision: Precision) -> Task:
    """Compose weights with an adapter."""
    return Task(
        suffix="folded",
        convert=lambda source, ops: checkpoint.fold_adapter(
            source, adapter, selection=scope.selection, precision=precision, **scope.places
        ),
        convert_model=_refuse(OptionError, "an adapter is folded into a state dict; the file holds a whole model"),
    )


def migrate(scope: Scope, to: Target, dim: DimHint) -> Task:
    """Spell the weight norms and spectral norms as one of torch's interfaces."""
    return Task(
        suffix=to,
        convert=lambda source, ops: checkpoint.migrate(source, to, selection=scope.selection, dim=dim, **scope.places),
        convert_model=_refuse(CheckpointError, NOT_MIGRATED),
    )


def migrate_adapter(scope: Scope, to: Target, adapter: Path) -> Task:
    """Spell an adapter as weight norm."""
    return Task(
        suffix=to,
        convert=lambda source, ops: checkpoint.migrate_adapter(
            source, adapter, to, selection=scope.selection, **scope.places
        ),
        convert_model=_refuse(CheckpointError, NOT_MIGRATED),
    )


def _refuse(kind: type[WnconvertError], text: str) -> Callable[[Any], NoReturn]:
    """Return what takes no whole model."""

    def refuse(model: Any) -> NoReturn:
        raise kind(text)

    return refuse
