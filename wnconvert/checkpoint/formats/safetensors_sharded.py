"""safetensors in several files, ``model.safetensors.index.json`` beside ``model-00001-of-00002.safetensors`` ..."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import safetensors
from wnconvert.checkpoint.manifest import KEY
from wnconvert.checkpoint.storage import safetensors_header, shards
from wnconvert.checkpoint.storage.flat import named_tensors
from wnconvert.checkpoint.storage.opened import Opened

INDEX = "model.safetensors.index.json"


@register
class SafetensorsShardedFormat(Format):
    """Sharded safetensors, named by the index file."""

    name = "safetensors_sharded"
    title = "sharded safetensors"
    flat = True
    ordered = False
    tagged = True
    folder = True
    refines = "model_folder"
    suffixes = ()

    def recognises(self, opened: Opened) -> bool:
        """Return whether the path is an index of safetensors files, or a folder of just these."""
        return opened.index is not None and safetensors_header.begins(Opened(opened.index.first).start)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all shards, mapped from the files, and the metadata of index and shards."""
        index = opened.index or shards.read(opened.path)
        metadata: dict[str, str] = {}

        def load(shard: Path) -> dict[str, Tensor]:
            tensors, own = safetensors.read_file(shard)
            metadata.update(own)
            return tensors

        content = shards.gather(index, load)
        return Checkpoint(content, self.name, {**metadata, **index.texts}, index.path)

    def files(self, opened: Opened) -> Collection[Path]:
        """Return the index and the shards."""
        return (opened.index.path, *opened.index.shards) if opened.index else ()

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write shards no larger than the largest of the origin, and their index."""
        tensors = named_tensors(checkpoint.content, self.title, safetensors.why_not)
        own = {key: text for key, text in checkpoint.metadata.items() if key != KEY}
        manifest = {key: text for key, text in checkpoint.metadata.items() if key == KEY}

        def write_shard(shard: Mapping[str, Tensor], file: Path) -> None:
            safetensors.write_file(shard, own, file)

        shards.write_like(checkpoint.origin, tensors, path, INDEX, ".safetensors", write_shard, manifest)
