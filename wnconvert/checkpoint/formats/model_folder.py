"""A folder as ``save_pretrained`` of the Hugging Face libraries writes it: weights, and files that go with them.

All other files are copied as they are, save for the state of optimizers, which would belong to other parameters.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from wnconvert.checkpoint import sidecar
from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format, find_format, register
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, OutputError

#: weights by name: which other files could be weights, nobody can tell.
WEIGHTS = re.compile(
    r"(?:model|pytorch_model|adapter_model|diffusion_pytorch_model)(?:\.\w+)?(\.safetensors|\.bin)(\.index\.json)?"
)
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(?:safetensors|bin)")
OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
KINDS = ("safetensors", "safetensors_sharded", "torch_zip", "torch_legacy", "torch_sharded")


@register
class ModelFolderFormat(Format):
    """A model folder."""

    name = "model_folder"
    title = "model folder"
    flat = True
    ordered = False
    tagged = True
    folder = True
    suffixes = ()

    def recognises(self, opened: Opened) -> bool:
        """Return whether the path is a folder with weights in it."""
        return opened.is_folder and bool(_weights(opened.path))

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what the weights of the folder hold."""
        file, kind = _the_weights(opened.path)
        checkpoint = sidecar.complete(kind.read(file, trust=trust), file.path)
        return replace(checkpoint, format=self.name, origin=opened.path)

    def read_inert(self, opened: Opened) -> Checkpoint:
        """Return the same, with state dicts in the place of modules."""
        file, kind = _the_weights(opened.path)
        checkpoint = sidecar.complete(kind.read_inert(file), file.path)
        return replace(checkpoint, format=self.name, origin=opened.path)

    def files(self, opened: Opened) -> Collection[Path]:
        """Return the weights, in whatever containers, and their records."""
        found = [*_weights(opened.path), *(path for path in opened.path.iterdir() if SHARD.fullmatch(path.name))]
        return [*found, *map(sidecar.place, found)]

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the weights in the containers of the origin, and copy its other files."""
        origin = checkpoint.origin if checkpoint.origin and checkpoint.origin.is_dir() else None
        if origin is None:
            kind: Format = FORMATS.get("safetensors")()
            kind.write(checkpoint, path / "model.safetensors")
            return
        opened, kind = _the_weights(origin)
        file = opened.path
        kind.write(replace(checkpoint, origin=file), path if kind.folder else path / file.name)
        if sidecar.is_used_by(type(kind)):
            sidecar.write(path / file.name, checkpoint.metadata)
        left_out = {*OPTIMIZERS, sidecar.place(file).name, file.name, ".git"}
        left_out |= {shard.name for shard in opened.index.shards} if opened.index else set()
        _copy(origin, origin, path, left_out)

    def optimizers(self, checkpoint: Checkpoint) -> list[str]:
        """Return the names of the files with the state of optimizers."""
        return [name for name in OPTIMIZERS if checkpoint.origin and (checkpoint.origin / name).exists()]


def _weights(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if WEIGHTS.fullmatch(path.name) and not SHARD.fullmatch(path.name))


def _the_weights(folder: Path) -> tuple[Opened, Format]:
    """Return the one file in a folder, a single file or an index, that leads to its weights, and its container."""
    found = _weights(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{str(folder)!r} holds weights several times ({names}); give one of these files instead")
    opened = Opened(paths.inside(folder, found[0].name))
    kind = find_format(opened)
    if kind is None or kind.name not in KINDS:
        raise CheckpointError(f"{str(opened.path)!r} is no checkpoint of a kind that a model folder holds")
    return opened, kind


def _copy(root: Path, source: Path, target: Path, left_out: set[str]) -> None:
    """Copy the files of a folder and its subfolders, following links only where they stay inside."""
    for path in sorted(source.iterdir()):
        name = str(path.relative_to(root))
        if name in left_out:
            continue
        if path.is_dir() and not path.is_symlink():
            (target / path.name).mkdir()
            _copy(root, path, target / path.name, left_out)
        else:
            try:
                shutil.copyfile(paths.inside(root, name), target / path.name)
            except CheckpointError as error:
                raise OutputError(str(error)) from error
