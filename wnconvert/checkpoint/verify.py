"""Proof that a written file holds what it must, by reading it again."""

from __future__ import annotations

from wnconvert.checkpoint.convert import Conversion, fold
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.tree import difference
from wnconvert.errors import NothingToConvertError, VerificationError


def verify_content(expected: Checkpoint, written: Checkpoint) -> None:
    """Check that a file holds ``expected``, bit for bit and entry by entry.

    Raises:
        VerificationError: it does not.
    """
    ordered = FORMATS.get(expected.format).ordered
    found = difference(expected.content, written.content, ordered=ordered)
    if FORMATS.get(expected.format).annotated and dict(expected.metadata) != dict(written.metadata):
        found = found or "the metadata differ"
    if found:
        raise VerificationError(f"the written file is not what was to be written: {found}; nothing was kept")


def verify_apply(source: Checkpoint, conversion: Conversion, written: Checkpoint) -> None:
    """Check what `wnconvert.checkpoint.apply` did, on the file that was written.

    The file must hold the converted content; and where the conversion is exact, what it holds must fold back into
    the source: every weight, every other entry, key order and metadata included.

    Raises:
        VerificationError: it does not.
    """
    verify_content(conversion.checkpoint, written)
    if not conversion.report.exact:
        return
    # a container without metadata has lost the manifest; then it is the one in memory that is put to the test
    annotated = FORMATS.get(written.format).annotated
    metadata = (written if annotated else conversion.checkpoint).metadata
    names = [entry.fqn for entry in conversion.report.converted]
    try:
        back = fold(Checkpoint(written.content, written.format, metadata), only=names).checkpoint
    except NothingToConvertError as error:
        raise VerificationError(f"the written file does not fold back: {error}") from error
    ordered = FORMATS.get(source.format).ordered
    if found := difference(source.content, back.content, ordered=ordered):
        raise VerificationError(f"the written file does not fold back to the input: {found}")
