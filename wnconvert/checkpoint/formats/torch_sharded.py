"""torch files with an index, ``pytorch_model.bin.index.json`` beside ``pytorch_model-00001-of-00002.bin`` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format, register
from wnconvert.checkpoint.pickles import archive, safety
from wnconvert.checkpoint.storage import shards
from wnconvert.errors import CheckpointError, OutputError

INDEX = "pytorch_model.bin.index.json"


@register
class TorchShardedFormat(Format):
    """Sharded torch files, named by the index file."""

    name = "torch_sharded"
    title = "sharded torch"
    flat = True
    folder = True
    suffixes = ()

    def recognises(self, path: Path) -> bool:
        """Return whether the path is an index of torch files, or a folder of just these."""
        index = shards.find(path)
        return index is not None and _kind(next(iter(shards.read(index).shards))) is not None

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all shards, mapped from the files, and what the index records."""
        index = shards.read(shards.find(path) or path)

        def load(shard: Path) -> dict[str, Tensor]:
            kind = _kind(shard)
            content = kind.read(shard, trust=trust).content if kind else None
            if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
                raise CheckpointError(f"{str(shard)!r} is no torch file with tensors alone, as its index says")
            return content

        return Checkpoint(shards.gather(index, load), self.name, index.all_texts, index.path)

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

        shards.write_like(checkpoint, content, path, INDEX, ".bin", write_shard, checkpoint.metadata)


def _kind(path: Path) -> Format | None:
    kinds = [FORMATS.get(name)() for name in ("torch_zip", "torch_legacy")]
    return next((kind for kind in kinds if kind.recognises(path)), None)
