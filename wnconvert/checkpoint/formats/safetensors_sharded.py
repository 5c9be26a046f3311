"""safetensors in several files, ``model.safetensors.index.json`` beside ``model-00001-of-00002.safetensors`` ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import safetensors
from wnconvert.checkpoint.manifest import KEY
from wnconvert.checkpoint.storage import safetensors_header, shards
from wnconvert.checkpoint.storage.flat import named_tensors

INDEX = "model.safetensors.index.json"


@register
class SafetensorsShardedFormat(Format):
    """Sharded safetensors, named by the index file."""

    name = "safetensors_sharded"
    title = "sharded safetensors"
    flat = True
    ordered = False
    folder = True
    suffixes = ()

    def recognises(self, path: Path) -> bool:
        """Return whether the path is an index of safetensors files, or a folder of just these."""
        index = shards.find(path)
        return index is not None and safetensors_header.looks_like(next(iter(shards.read(index).shards)))

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all shards, mapped from the files, and the metadata of index and shards."""
        index = shards.read(shards.find(path) or path)
        metadata: dict[str, str] = {}

        def load(shard: Path) -> dict[str, Tensor]:
            tensors, own = safetensors.read_file(shard)
            metadata.update(own)
            return tensors

        content = shards.gather(index, load)
        return Checkpoint(content, self.name, {**metadata, **index.texts}, index.path)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write shards no larger than the largest of the origin, and their index."""
        tensors = named_tensors(checkpoint.content, self.title, safetensors.why_not)
        own = {key: text for key, text in checkpoint.metadata.items() if key != KEY}
        manifest = {key: text for key, text in checkpoint.metadata.items() if key == KEY}

        def write_shard(shard: Mapping[str, Tensor], file: Path) -> None:
            safetensors.write_file(shard, own, file)

        shards.write_like(checkpoint, tensors, path, INDEX, ".safetensors", write_shard, manifest)
