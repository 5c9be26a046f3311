"""Proof that a written file holds what it must, by reading it again."""

from __future__ import annotations

from typing import Any

from wnconvert.checkpoint.content.difference import difference
from wnconvert.checkpoint.content.optimizers import replacements
from wnconvert.checkpoint.content.tree import rebuild
from wnconvert.checkpoint.conversions.conversion import Conversion
from wnconvert.checkpoint.conversions.fold import fold
from wnconvert.checkpoint.files import verify_held
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.layout import Layout
from wnconvert.checkpoint.weights.outcome import DimOrDefault
from wnconvert.checkpoint.weights.unfolding import hint_of
from wnconvert.device import DeviceLike
from wnconvert.errors import NothingToConvertError, VerificationError


def verify_apply(source: Checkpoint, conversion: Conversion, written: Checkpoint, device: DeviceLike = None) -> None:
    """Check what `wnconvert.checkpoint.apply` did, on the file that was written.

    The file must hold the converted content; and where the conversion is exact, what it holds must fold back into
    the source: every weight, every other entry, key order and metadata included.

    Args:
        source: the input.
        conversion: what came of it.
        written: the file.
        device: where weights were computed; only there they are sure to come back.

    Raises:
        VerificationError: it does not.
    """
    # where every weight is composed from the written parts and compared, the parts need not be computed once more
    verify_held(conversion.checkpoint, written, bits=not conversion.report.exact)
    if conversion.report.exact:
        names = [entry.fqn for entry in conversion.report.converted]
        _verify_back(source, conversion, written, only=names, device=device)


def verify_unfold(
    source: Checkpoint,
    conversion: Conversion,
    written: Checkpoint,
    layout: Layout,
    dim: DimOrDefault = "default",
    device: DeviceLike = None,
) -> None:
    """Check what `wnconvert.checkpoint.unfold` did, on the file that was written, as `verify_apply` does.

    Args:
        source: the input.
        conversion: what came of it.
        written: the file.
        layout: the layout that it is in.
        dim: the kept dim that the user gave.
        device: where weights were computed.

    Raises:
        VerificationError: it does not hold what it must.
    """
    verify_held(conversion.checkpoint, written, bits=True)
    if conversion.report.exact:
        names = [layout.wrapped(entry.fqn) for entry in conversion.report.converted]
        hint = hint_of(layout, conversion.report.converted[0].scheme, dim)
        _verify_back(source, conversion, written, only=names, presets=(layout,), dim=hint, device=device)


def _verify_back(source: Checkpoint, conversion: Conversion, written: Checkpoint, **how: Any) -> None:
    container = FORMATS.get(written.format)
    try:
        back = fold(written, optimizer="keep", **how).checkpoint
    except NothingToConvertError as error:
        raise VerificationError(f"the written file does not fold back: {error}") from error
    new, left_out = replacements(source.content, conversion.checkpoint.content)
    before = rebuild(source.content, new, left_out) if new or left_out else source.content
    if found := difference(before, back.content, ordered=container.ordered, kinds=not container.flat):
        raise VerificationError(f"the written file does not fold back to the input: {found}")
