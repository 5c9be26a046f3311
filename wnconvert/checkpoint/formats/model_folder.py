"""A folder as ``save_pretrained`` of the Hugging Face libraries writes it: weights, and files that go with them.

The weights have a name that these libraries know. Models with a ``save_pretrained`` of their own, by
``PyTorchModelHubMixin`` of huggingface_hub, may give them any other: BigVGAN's folder is a ``config.json`` beside
``bigvgan_generator.pt``. So a folder with a config is also the only checkpoint in it.

All other files are copied as they are, save for the state of optimizers, which would belong to other parameters; that
of BigVGAN is in one file with the discriminators. Sources: huggingface_hub, hub_mixin.py; NVIDIA/BigVGAN, bigvgan.py.
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
from wnconvert.checkpoint.storage.shards import ENDING
from wnconvert.errors import CheckpointError, OutputError

#: weights by the names that the libraries know.
WEIGHTS = re.compile(
    r"(?:model|pytorch_model|adapter_model|diffusion_pytorch_model)(?:\.\w+)?(\.safetensors|\.bin)(\.index\.json)?"
)
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(?:safetensors|bin)")
#: what a folder with a config may have its weights in, where none have such a name
OTHERS = re.compile(r".+\.(?:safetensors|bin|pt|pth|ckpt|th)(?:\.index\.json)?")
CONFIG = "config.json"
OPTIMIZERS = re.compile(r"(?:.+_)?optimizer\.(?:pt|bin|pth)")
#: what training leaves beside them.
STATES = re.compile(r"(?:training_args|scheduler|scaler|rng_state(?:_\d+)?|random_states_\d+)\.\w+")
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

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what the library of the weights' container reads."""
        file, kind = _the_weights(opened.path)
        checkpoint = sidecar.complete(kind.read_back(file, trust=trust), file.path)
        return replace(checkpoint, format=self.name, origin=opened.path)

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
        left_out = {*_optimizers(origin), sidecar.place(file).name, file.name, ".git"}
        left_out |= {shard.name for shard in opened.index.shards} if opened.index else set()
        _copy(origin, origin, path, left_out)

    def optimizers(self, checkpoint: Checkpoint) -> list[str]:
        """Return the names of the files with the state of optimizers."""
        return _optimizers(checkpoint.origin) if checkpoint.origin and checkpoint.origin.is_dir() else []


def _weights(folder: Path) -> list[Path]:
    """Return the files in a folder that may be its weights, or lead to them: those of the usual names, or else any."""
    files = [path for path in sorted(folder.iterdir()) if not SHARD.fullmatch(path.name)]
    known = [path for path in files if WEIGHTS.fullmatch(path.name)]
    if known or not (folder / CONFIG).is_file():
        return known
    others = [path for path in files if OTHERS.fullmatch(path.name) and path.is_file()]
    return [path for path in others if not OPTIMIZERS.fullmatch(path.name) and not STATES.fullmatch(path.name)]


def _optimizers(folder: Path) -> list[str]:
    """Return the names of the files in a folder that hold the state of optimizers."""
    return sorted(path.name for path in folder.iterdir() if OPTIMIZERS.fullmatch(path.name))


def _the_weights(folder: Path) -> tuple[Opened, Format]:
    """Return the one file in a folder, a single file or an index, that leads to its weights, and its container."""
    found = _weights(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        what = "weights several times" if WEIGHTS.fullmatch(found[0].name) else "several checkpoints"
        raise CheckpointError(f"{str(folder)!r} holds {what} ({names}); give one of these files instead")
    opened = Opened(paths.inside(folder, found[0].name))
    kind = find_format(opened)
    if kind is None or kind.name not in KINDS:
        raise CheckpointError(f"{str(opened.path)!r} is no checkpoint of a kind that a model folder holds")
    if opened.path.name.endswith(ENDING) and not kind.folder:  # the libraries read it as an index, and fail
        name = opened.path.name.removesuffix(ENDING)
        what = f"has the name of an index, but is {kind.title}"
        raise CheckpointError(f"{str(opened.path)!r} {what}; rename it to {name!r}")
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
