"""Checkpoints of several files: an index says which tensor is in which of them.

    {"metadata": {"total_size": 8}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", ...}}

The manifest stands in the index, and so do all metadata where the shards have no place for them. All else that the
metadata of the index say is taken over from the origin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.checkpoint.manifest import KEY
from wnconvert.checkpoint.storage.paths import inside, read_small
from wnconvert.errors import CheckpointError, OutputError

#: longer ones are not read.
LONGEST = 100_000_000
ENDING = ".index.json"
#: bytes of a shard where there is no origin to take them from.
SHARD = 5_000_000_000


@dataclass(frozen=True)
class Index:
    """An index file.

    Attributes:
        path: the file.
        metadata: what it says besides.
        names: names of all tensors, in order.
        shards: names of the tensors by path of the file that holds them, in order.
    """

    path: Path
    metadata: Mapping[str, Any]
    names: tuple[str, ...]
    shards: Mapping[Path, tuple[str, ...]]

    @property
    def first(self) -> Path:
        """The first shard."""
        return next(iter(self.shards))

    @property
    def texts(self) -> dict[str, str]:
        """The metadata that wnconvert wrote."""
        return {KEY: self.metadata[KEY]} if isinstance(self.metadata.get(KEY), str) else {}

    @property
    def all_texts(self) -> dict[str, str]:
        """All metadata that are texts."""
        return {key: text for key, text in self.metadata.items() if isinstance(text, str)}

    @property
    def largest(self) -> int:
        """Size of the largest shard in bytes."""
        return max((path.stat().st_size for path in self.shards), default=0) or SHARD


def find(path: Path) -> Index | None:
    """Return the index that a path means: the file itself, or the one in a folder of it and its shards alone.

    Raises:
        CheckpointError: the file is an index, but names files elsewhere, or files that do not exist.
    """
    if not path.is_dir():
        return read(path) if _is_index(path) else None
    files = list(path.iterdir())
    indexes = [file for file in files if file.name.endswith(ENDING) and file.is_file() and _is_index(file)]
    if len(indexes) != 1:
        return None
    try:
        index = read(indexes[0])
    except CheckpointError:
        return None
    alone = {file.name for file in files} <= {index.path.name, *(shard.name for shard in index.shards)}
    return index if alone else None


def read(path: Path) -> Index:
    """Return an index whose files all lie beside it.

    Raises:
        CheckpointError: it is no index, or names files elsewhere, or files that do not exist.
    """
    data = _json(path)
    names, metadata = data.get("weight_map"), data.get("metadata") or {}
    texts = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    if not names or not texts or not isinstance(metadata, dict):
        raise CheckpointError(f"{str(path)!r} is no index of a checkpoint: it has no proper 'weight_map'")
    paths = {name: inside(path.parent, name) for name in dict.fromkeys(names.values())}
    shards: dict[Path, list[str]] = {each: [] for each in paths.values()}
    for key, name in names.items():
        shards[paths[name]].append(key)
    return Index(path, metadata, tuple(names), {each: tuple(keys) for each, keys in shards.items()})


def gather(index: Index, load: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all shards in the order of the index.

    Raises:
        CheckpointError: the index and the shards do not agree.
    """
    found: dict[str, Tensor] = {}
    for path, names in index.shards.items():
        tensors = load(path)
        if missing := [name for name in names if name not in tensors]:
            raise CheckpointError(f"{str(path)!r} has no {missing[0]!r}, which its index promises")
        if unlisted := set(tensors) - set(names):
            raise CheckpointError(f"{str(path)!r} has {min(unlisted)!r}, which its index does not list")
        found.update((name, tensors[name]) for name in names)
    return {name: found[name] for name in index.names}


def write_like(
    origin: Path | None,
    tensors: Mapping[str, Tensor],
    folder: Path,
    default: str,
    suffix: str,
    write_shard: Callable[[Mapping[str, Tensor], Path], None],
    metadata: Mapping[str, str],
) -> None:
    """Write shards and their index into a folder, in the manner of the index that they are from, if there is one.

    Args:
        origin: where the tensors are from.
        tensors: the tensors by name.
        folder: the folder.
        default: name of the index file where there is no origin to take it from.
        suffix: suffix of the shards.
        write_shard: writes one of them.
        metadata: texts for the index.
    """
    like = find(origin) if origin and origin.is_file() else None
    index = like.path.name if like and like.path.name.endswith(f"{suffix}{ENDING}") else default
    limit = like.largest if like else SHARD
    others = {key: value for key, value in like.metadata.items() if key != KEY} if like else {}
    stem = index.removesuffix(ENDING).removesuffix(suffix)
    shards = list(_split(tensors, limit))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05}-of-{len(shards):05}{suffix}"
        write_shard(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum({storage_key(t): t.numel() * t.element_size() for t in tensors.values()}.values())
    data = {
        "metadata": {**others, **metadata, "total_size": total},
        "weight_map": {name: weight_map[name] for name in tensors},
    }
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"an index cannot hold this content: {error.reason}") from error
    (folder / index).write_bytes(text + b"\n")


def _split(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Yield shards; tensors that are tied are in one of them."""
    ties: dict[Any, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ties.setdefault(storage_key(tensor), {})[name] = tensor
    shard: dict[str, Tensor] = {}
    size = 0
    for tied in ties.values():
        first = next(iter(tied.values()))
        more = first.numel() * first.element_size()
        if shard and size + more > limit:
            yield shard
            shard, size = {}, 0
        shard.update(tied)
        size += more
    yield shard


def _is_index(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"{"):
                return False
        return "weight_map" in _json(path)
    except CheckpointError:
        return False


def _json(path: Path) -> dict[str, Any]:
    text = read_small(path, LONGEST)
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is no JSON file: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is no index of a checkpoint")
    return data


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
