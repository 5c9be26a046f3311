"""The archive of `torch.package` (``.pt``, ``.pth``): pickled objects together with the code that they need.

What is pickled is read with the state dicts of modules in their place. The code of the archive never runs, and a file
without it would be no package: so none is written.
"""

from __future__ import annotations

from io import BytesIO

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles import machine
from wnconvert.checkpoint.pickles.inert import as_state_dicts
from wnconvert.checkpoint.storage.limits import Budget
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError

#: the record that every package has: which modules it imports from outside.
EXTERN = ".data/extern_modules"
#: what torch writes for itself.
OWN = (".data/", "byteorder", "version")


@register
class TorchPackageFormat(Format):
    """A torch.package archive, of which what is pickled is read."""

    name = "torch_package"
    title = "torch.package"
    suffixes = (".pt", ".pth")
    annotated = False
    refines = "torch_zip"
    not_written = "its code would not fit the new weights; give --format torch_zip to write what is pickled in it"

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file is a zip archive with the list of modules that it needs."""
        return opened.has(EXTERN)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the pickled object, or where there are several, a dict of them by package and resource."""
        path, archive = opened.path, opened.archive
        folder = archive.folder_of(EXTERN)
        names = [name.partition("/")[2] for name in archive.names if name.startswith(f"{folder}/")]
        resources = [name for name in names if not name.startswith(OWN)]
        others = [name for name in resources if not name.endswith(".py")]
        data = {name: archive.data(f"{folder}/{name}") for name in others}
        pickles = {name: each for name, each in data.items() if each[:1] == b"\x80" and each.endswith(b".")}
        if not pickles:
            raise CheckpointError(f"{str(path)!r} is a torch.package archive without anything pickled in it")
        storages = machine.mapped(archive, f"{folder}/.data", ".storage")
        budget = Budget(path)
        objects = {name: machine.load(path, BytesIO(each), storages, budget) for name, each in pickles.items()}
        content, notes = as_state_dicts(objects if len(objects) > 1 else objects.popitem()[1])
        left_out = [name for name in resources if name not in pickles]
        shown = ", ".join(map(repr, left_out[:5])) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        notes += (f"left out of the archive, for it is code or no pickle: {shown}",) if left_out else ()
        return Checkpoint(content, self.name, notes=notes, checks=(archive.check,))
