"""TorchScript archives (`torch.jit.save`): their weights are read, their code is not.

The archive holds an object tree of modules of its own making. It is rebuilt from stand-ins: objects with attributes
and no behaviour. No code of the archive runs, and none of its classes is looked up.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor

from wnconvert.checkpoint.content.tree import DEEPEST
from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles import machine
from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError

WAY_OUT = "save its weights and convert those: torch.save(torch.jit.load(path).state_dict(), ...)"

#: how the names of its classes begin, and those of functions that return their first argument.
MODULES, WRAPPERS = "__torch__.", "torch.jit._pickle."


@register
class TorchScriptFormat(Format):
    """A TorchScript archive, of which the weights alone are read."""

    name = "torchscript"
    title = "TorchScript"
    suffixes = (".pt", ".pth", ".ts", ".torchscript")
    annotated = False
    refines = "torch_zip"
    not_written = "its code computes with the weights as they are; give --format torch_zip to write the weights alone"

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file is a zip archive with constants beside its data."""
        return opened.has("data.pkl") and opened.has("constants.pkl")

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all modules by dotted name, mapped from the file."""
        path, archive = opened.path, opened.archive
        folder = archive.folder_of("constants.pkl")
        try:
            data = io.BytesIO(archive.data(f"{folder}/data.pkl"))
            root = machine.load(path, data, machine.mapped(archive, f"{folder}/data"))
            content = OrderedDict(_tensors(root, ""))
        except Exception as error:  # a damaged file can make it raise anything at all
            raise CheckpointError(
                f"{str(path)!r} is a TorchScript archive that cannot be read without its code "
                f"({first_line(error, 80)}); {WAY_OUT}"
            ) from error
        return Checkpoint(content, self.name, checks=(archive.check,))


def _tensors(module: Unknown, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise CheckpointError(f"the modules are nested more than {DEEPEST} deep")
    for name, value in module.state.items():
        while isinstance(value, Unknown) and value.name.startswith(WRAPPERS) and value.args:
            value = value.args[0]
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(value, Unknown) and value.name.startswith(MODULES) and value.state is not None:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
        elif isinstance(value, Unknown) and not value.name.startswith(MODULES):
            raise CheckpointError(f"it names {value}")
