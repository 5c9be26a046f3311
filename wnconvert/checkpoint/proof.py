"""Proof that a written file holds what it must, by reading it again."""

from __future__ import annotations

from typing import Any

from wnconvert.checkpoint.applying import DimOrDefault
from wnconvert.checkpoint.convert import Conversion, fold
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.layout import Layout
from wnconvert.checkpoint.optimizers import missing
from wnconvert.checkpoint.tree import difference, rebuild
from wnconvert.checkpoint.unfolding import hint_of
from wnconvert.errors import NothingToConvertError, VerificationError


def verify_content(expected: Checkpoint, written: Checkpoint) -> None:
    """Check that a file holds ``expected``, bit for bit and entry by entry; one tensor at a time is computed.

    Raises:
        VerificationError: it does not.
    """
    _verify_held(expected, written, bits=True)


def verify_apply(source: Checkpoint, conversion: Conversion, written: Checkpoint) -> None:
    """Check what `wnconvert.checkpoint.apply` did, on the file that was written.

    The file must hold the converted content; and where the conversion is exact, what it holds must fold back into
    the source: every weight, every other entry, key order and metadata included.

    Raises:
        VerificationError: it does not.
    """
    # where every weight is composed from the written parts and compared, the parts need not be computed once more
    _verify_held(conversion.checkpoint, written, bits=not conversion.report.exact)
    if conversion.report.exact:
        names = [entry.fqn for entry in conversion.report.converted]
        _verify_back(source, conversion, written, only=names)


def verify_unfold(
    source: Checkpoint, conversion: Conversion, written: Checkpoint, layout: Layout, dim: DimOrDefault = "default"
) -> None:
    """Check what `wnconvert.checkpoint.unfold` did, on the file that was written, as `verify_apply` does.

    Args:
        source: the input.
        conversion: what came of it.
        written: the file.
        layout: the layout that it is in.
        dim: the kept dim that the user gave.

    Raises:
        VerificationError: it does not hold what it must.
    """
    _verify_held(conversion.checkpoint, written, bits=True)
    if conversion.report.exact:
        names = [layout.wrapped(entry.fqn) for entry in conversion.report.converted]
        hint = hint_of(layout, conversion.report.converted[0].scheme, dim)
        _verify_back(source, conversion, written, only=names, presets=(layout,), dim=hint)


def _verify_back(source: Checkpoint, conversion: Conversion, written: Checkpoint, **how: Any) -> None:
    container = FORMATS.get(written.format)
    try:
        back = fold(written, keep_optimizers=True, **how).checkpoint
    except NothingToConvertError as error:
        raise VerificationError(f"the written file does not fold back: {error}") from error
    left_out = {id(each.entries) for each in missing(source.content, conversion.checkpoint.content)}
    before = rebuild(source.content, {}, left_out) if left_out else source.content
    if found := difference(before, back.content, ordered=container.ordered, kinds=not container.flat):
        raise VerificationError(f"the written file does not fold back to the input: {found}")


def _verify_held(expected: Checkpoint, written: Checkpoint, *, bits: bool) -> None:
    container = FORMATS.get(expected.format)
    found = difference(
        expected.content, written.content, ordered=container.ordered, kinds=not container.flat, bits=bits
    )
    if dict(expected.metadata) != dict(written.metadata):
        found = found or "the metadata differ"
    if found:
        raise VerificationError(f"the written file is not what was to be written: {found}; nothing was kept")
