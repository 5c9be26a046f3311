"""What a shell completes from the file that stands on the line already: names of weights, without torch.

It is asked at each press of a key: of a safetensors file its header is read, of a torch zip the texts in its pickle,
which is not run. Where that takes long, or the file is something else, nothing is completed.
"""

from __future__ import annotations

import io
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import typer

from wnconvert.errors import WnconvertError

#: bytes of a header or pickle, and operations of a pickle, that are looked at while somebody waits
LARGEST, LONGEST = 1 << 24, 1 << 20
#: names of modules, and those of their weights, are both what globs are matched with
SUFFIXES = (".weight", ".weight_g", ".weight_v", ".weight_orig", ".parametrizations.weight.original0")


def of_files(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of weights, and of their modules, that begin so in the files of the line."""
    # an option that has no value yet ends the parsing, and leaves the files among the arguments
    given = ctx.params.get("files") or ctx.args
    names: set[str] = set()
    for path in islice(map(Path, given), 4):
        names |= modules_and_weights(names_in(path))
    # a line break would add candidates, and other controls would reach the terminal
    return sorted(name for name in names if name.startswith(incomplete) and name.isprintable())


def modules_and_weights(keys: set[str]) -> set[str]:
    """Return the plain names of the weights that some keys are of, and those of their modules."""
    modules = {key.removesuffix(suffix) for key in keys for suffix in SUFFIXES if key.endswith(suffix)}
    return modules | {f"{module}.weight" for module in modules}


def names_in(path: Path) -> set[str]:
    """Return texts in a file among which the names of its tensors are; empty where it cannot be read, or not fast."""
    from wnconvert.checkpoint.storage import safetensors_header as header

    try:
        if not path.is_file():  # a pipe would be waited for
            return set()
        with path.open("rb") as file:
            start = file.read(9)
        if header.begins(start):
            return set(header.read(path)[0]) if int.from_bytes(start[:8], "little") <= LARGEST else set()
        return set(_texts(path)) if zipfile.is_zipfile(path) else set()
    except (OSError, ValueError, WnconvertError, NotImplementedError, RuntimeError, EOFError, MemoryError):
        return set()
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError):
        return set()


def _texts(path: Path) -> Iterator[str]:
    """Yield the texts of a pickle that `torch.save` wrote."""
    with zipfile.ZipFile(path) as archive:
        record = next((each for each in archive.infolist() if each.filename.endswith("/data.pkl")), None)
        if record is None or record.file_size > LARGEST:
            return
        data = archive.read(record)
    for operation, text, _ in islice(pickletools.genops(io.BytesIO(data)), LONGEST):
        if isinstance(text, str) and "UNICODE" in operation.name:
            yield text
