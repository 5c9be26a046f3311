"""torch files with an index, ``pytorch_model.bin.index.json`` beside ``pytorch_model-00001-of-00002.bin`` and so on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, find_format, register
from wnconvert.checkpoint.pickles import archive, safety
from wnconvert.checkpoint.storage import shards
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, OutputError

INDEX = "pytorch_model.bin.index.json"


@register
class TorchShardedFormat(Format):
    """Sharded torch files, named by the index file."""

    name = "torch_sharded"
    title = "sharded torch"
    flat = True
    folder = True
    refines = "model_folder"
    suffixes = ()

    def recognises(self, opened: Opened) -> bool:
        """Return whether the path is an index of torch files, or a folder of just these."""
        return opened.index is not None and _kind(Opened(opened.index.first)) is not None

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all shards, mapped from the files, and what the index records."""
        return self._read(opened, lambda kind, file: kind.read(file, trust=trust))

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the same as `torch.load` reads it."""
        return self._read(opened, lambda kind, file: kind.read_back(file, trust=trust))

    def _read(self, opened: Opened, read_shard: Callable[[Format, Opened], Checkpoint]) -> Checkpoint:
        index = opened.index or shards.read(opened.path)
        checks: list[Callable[[], None]] = []

        def load(shard: Path) -> dict[str, Tensor]:
            file = Opened(shard)
            kind = _kind(file)
            read = read_shard(kind, file) if kind else None
            content = read.content if read else None
            checks.extend(read.checks if read else ())
            if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
                raise CheckpointError(f"{str(shard)!r} is no torch file with tensors alone, as its index says")
            return content

        content = shards.gather(index, load)
        return Checkpoint(content, self.name, index.all_texts, index.path, checks=tuple(checks))

    def files(self, opened: Opened) -> Collection[Path]:
        """Return the index and the shards."""
        return (opened.index.path, *opened.index.shards) if opened.index else ()

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write shards no larger than the largest of the origin, and their index."""
        content = checkpoint.content
        if not isinstance(content, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        ):
            raise OutputError(f"{self.title} cannot hold this content: it is not a dict of tensors")

        def write_shard(shard: Mapping[str, Tensor], file: Path) -> None:
            with safety.unpicklable():
                archive.write(dict(shard), file, {})

        shards.write_like(checkpoint.origin, content, path, INDEX, ".bin", write_shard, checkpoint.metadata)


def _kind(shard: Opened) -> Format | None:
    kind = find_format(shard, single=True)
    return kind if kind and kind.name in ("torch_zip", "torch_legacy") else None
