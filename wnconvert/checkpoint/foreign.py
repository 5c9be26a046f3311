"""Files and folders that people mistake for checkpoints of torch: what each is, and the way out.

One row says how one kind is told: by its content, with its name at most beside that. The first that matches counts.
Nothing is read but beginnings, ends, and names in folders and archives. A kind that a format learns to read loses its
row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from wnconvert.checkpoint.storage.opened import ZIP, Opened

#: how the last bytes of an index of TensorFlow's checkpoints read, whose container is the table of LevelDB
TABLE_END = bytes.fromhex("57fb808b247547db")
#: suffixes of what may be a checkpoint inside of an archive or a folder; only to name it to the user
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".tar")
#: how files of others are named, which no format writes
NAMES = {
    ".onnx": "an ONNX model",
    ".gguf": "a GGUF file",
    ".msgpack": "a file of Flax",
    ".h5": "a file of Keras",
    ".hdf5": "a file of Keras",
    ".keras": "a file of Keras",
    ".pb": "a model of TensorFlow",
    ".tflite": "a TensorFlow Lite model",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".pte": "an ExecuTorch program",
    ".engine": "a TensorRT engine",
    ".json": "a JSON file",
    ".gz": "a compressed file",
    ".zip": "an archive",
}
#: that many entries of a folder or an archive are looked at
MOST = 1000

BY_NUMPY = "and save them with numpy.savez"
AGAIN = "convert the checkpoint that it was made from, and make it again"


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        what: what it is, and the way out. ``{path}`` is the file, ``{inner}`` what is in it.
        is_it: tells it.
        inner: names what is in it that may be meant.
        early: whether it is told before any format is asked, one of which would take it for its own.
    """

    what: str
    is_it: Callable[[Opened], bool]
    inner: Callable[[Opened], str] = lambda opened: ""
    early: bool = False


def describe(opened: Opened, *, early: bool = False) -> str | None:
    """Return what a file or folder is that is no checkpoint, and the way out; None where nobody knows.

    Args:
        opened: the file or folder.
        early: ask only about what a format would take for its own.
    """
    for kind in KINDS:
        if (kind.early or not early) and kind.is_it(opened):
            return kind.what.replace("{inner}", kind.inner(opened)).replace("{path}", str(opened.path))
    return None


def _listed(find: Callable[[Opened], Iterable[str]]) -> Callable[[Opened], str]:
    """Return what names the first of what is found."""

    def text(opened: Opened) -> str:
        names = sorted(find(opened))
        return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    return text


def _begins(*starts: bytes, at: int = 0) -> Callable[[Opened], bool]:
    return lambda opened: opened.start[at:].startswith(starts)


def _text(*starts: bytes) -> Callable[[Opened], bool]:
    return lambda opened: opened.start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(starts)


def _zipped(*names: str) -> Callable[[Opened], bool]:
    """Return what tells a zip archive with a record of some name, at the end of its path."""
    return lambda opened: any(record.endswith(names) for record in opened.records)


def _names(opened: Opened) -> list[str]:
    """Return the names of what is in a folder."""
    if not opened.is_folder:
        return []
    with os.scandir(opened.path) as entries:
        return sorted(entry.name for entry, _ in zip(entries, range(MOST), strict=False))


def _holds(*names: str) -> Callable[[Opened], bool]:
    """Return what tells a folder with all of some names in it, each given as the end of one."""
    return lambda opened: all(any(each.endswith(name) for each in _names(opened)) for name in names)


def _is_markup_of(*tags: bytes) -> Callable[[Opened], bool]:
    return lambda opened: _text(b"<")(opened) and any(tag in opened.start for tag in tags)


def is_onnx(opened: Opened) -> bool:
    """Return whether a file is a protobuf message that begins as ONNX's `ModelProto` does.

    That is the version of the format, a small number, and then texts (of whom it is, say), a graph or a list of opsets.
    """
    start = opened.start
    if len(start) < 8 or start[0] != 0x08 or not 0 < start[1] < 64:
        return False
    field, value = start[2], start[4 : 4 + start[3]]
    if field in (0x12, 0x1A, 0x22):  # the producer, its version, the domain
        return value.isascii() and value.decode("ascii").isprintable() and start[3] < 128
    if field in (0x28, 0x32):  # the version of the model, which says nothing, and a text about it
        return opened.path.suffix == ".onnx"
    return field == 0x3A or (field == 0x42 and value[:1] in (b"\x0a", b"\x10"))


def _is_message(opened: Opened) -> bool:
    """Return whether a file is a protobuf message of a small number and a message."""
    start = opened.start
    return len(start) > 8 and start[0] == 0x08 and 0 < start[1] < 64 and start[2] == 0x12 and b"\x0a" in start[4:6]


def _is_graph(opened: Opened) -> bool:
    """Return whether a file begins as a graph of TensorFlow: a node, its name and its op."""
    return opened.start[:1] == b"\x0a" and any(op in opened.start for op in (b"\x12\x0bPlaceholder", b"\x12\x05Const"))


def _is_msgpack(opened: Opened) -> bool:
    """Return whether a file begins with maps of names, as Flax's files do, and what is in them."""
    start, at, depth = opened.start, 0, 0
    while at + 2 < len(start):
        head = start[at]
        if 0x81 <= head <= 0x8F:
            at += 1
        elif head in (0xDE, 0xDF):
            at += 3 if head == 0xDE else 5
        else:
            return depth > 0 and head in (0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9))  # an array
        head = start[at] if at < len(start) else 0
        if not (0xA0 <= head <= 0xBF or head == 0xD9):
            return False
        at, length = (at + 1, head & 0x1F) if head != 0xD9 else (at + 2, start[at + 1] if at + 1 < len(start) else 0)
        if not start[at : at + length].decode("utf-8", "replace").isprintable():
            return False
        at, depth = at + length, depth + 1
    return depth > 0


def _is_table(path: Path) -> bool:
    """Return whether a file ends as the index of a checkpoint of TensorFlow."""
    if not path.is_file() or path.stat().st_size < 48:
        return False
    with path.open("rb") as file:
        file.seek(-len(TABLE_END), os.SEEK_END)
        return file.read() == TABLE_END


def _is_of_tensorflow(opened: Opened) -> bool:
    """Return whether a path is the index of a checkpoint of TensorFlow, its data beside it, or the folder of both."""
    if opened.is_folder:
        return any(_is_table(opened.path / name) for name in _names(opened) if name.endswith(".index"))
    stem, data, _ = opened.path.name.partition(".data-0")
    return _is_table(opened.path) or bool(data and _is_table(opened.path.with_name(f"{stem}.index")))


def _members(opened: Opened) -> list[str]:
    """Return the names in a tar archive, the first of them. Names of over 100 bytes may be cut."""
    if opened.start[257:262] != b"ustar":
        return []
    names: list[str] = []
    with opened.path.open("rb") as file:
        while len(names) < MOST and len(header := file.read(512)) == 512 and header[257:262] == b"ustar":
            names.append(header[:100].partition(b"\0")[0].decode("utf-8", "replace"))
            size = header[124:136].strip(b" \0")
            if not set(size) <= set(b"01234567"):  # 8 GB and more are written otherwise
                break
            file.seek(-(-int(size or b"0", 8) // 512) * 512, os.SEEK_CUR)
    return names


def _tarred(*names: str) -> Callable[[Opened], bool]:
    return lambda opened: any(name.rpartition("/")[2] in names for name in _members(opened))


def _packed(opened: Opened) -> Iterator[str]:
    """Yield the names of checkpoints in an archive or a folder."""
    names = _names(opened) if opened.is_folder else _members(opened) or opened.records
    return (name for name in names if name.endswith(CHECKPOINTS))


def _is_zip_around(opened: Opened) -> bool:
    return opened.start.startswith(ZIP) and any(_packed(opened))


def _is_shard_of_dcp(opened: Opened) -> bool:
    return opened.path.suffix == ".distcp" and opened.path.with_name(".metadata").is_file() and not opened.is_folder


def _is_zero(opened: Opened) -> bool:
    """Return whether a folder is of DeepSpeed's ZeRO: what is in it, or the step in it, is cut into partitions."""
    names = _names(opened)
    parts = [name for name in names if "zero_pp_rank_" in name or name == "mp_rank_00_model_states.pt"]
    return bool(parts) or "zero_to_fp32.py" in names


def _subfolders(opened: Opened) -> Iterator[str]:
    """Yield the names of the subfolders that hold something which may be a checkpoint."""
    for name in _names(opened):
        inner = opened.path / name
        if inner.is_dir() and any(_packed(Opened(inner))):
            yield name


def _stranger(opened: Opened) -> str:
    """Return what the first file in a folder is that is known for not being a checkpoint."""
    for name in _names(opened):
        file = Opened(opened.path / name)
        if file.path.is_file() and file.path.suffix not in (".json", ".py") and (what := describe(file)):
            return f"{name!r} in it is {what}"
    return ""


#: one row a kind; what is more special comes first.
KINDS = (
    Kind(
        "a part of a checkpoint of torch.distributed.checkpoint; give its folder",
        _is_shard_of_dcp,
        early=True,
    ),
    # folders
    Kind(
        "a folder of torch.distributed.checkpoint; make one file of it, 'python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pt', and give that",
        lambda opened: ".metadata" in _names(opened) and _holds(".distcp")(opened),
    ),
    Kind(
        "a checkpoint of DeepSpeed's ZeRO; make one file of it, 'python zero_to_fp32.py {path} OUTPUT' (the script is "
        "beside it, and in deepspeed.utils), and give that",
        _is_zero,
    ),
    Kind(
        "a pipeline of diffusers, which has a model in each of its subfolders; give one of these: {inner}",
        _holds("model_index.json"),
        _listed(_subfolders),
    ),
    Kind(
        f"a SavedModel of TensorFlow; read its variables with tf.train.load_variable, {BY_NUMPY}",
        _holds("saved_model.pb"),
    ),
    Kind(
        f"a checkpoint of TensorFlow; read its arrays with tf.train.load_checkpoint, {BY_NUMPY}",
        _is_of_tensorflow,
    ),
    Kind(
        f"a checkpoint of Orbax, for JAX; read its arrays with orbax.checkpoint, {BY_NUMPY}",
        lambda opened: bool({"_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA"}.intersection(_names(opened))),
    ),
    Kind(
        f"a package of Core ML, compiled for Apple's devices; {AGAIN}",
        lambda opened: {"Manifest.json", "Data"}.issubset(_names(opened)),
    ),
    Kind(
        "a folder without weights of torch by a name that is known, but with {inner}; give one of these files",
        lambda opened: opened.is_folder and any(_packed(opened)),
        _listed(_packed),
    ),
    Kind(
        "a folder in which subfolders hold checkpoints; give one of these, or a file in it: {inner}",
        lambda opened: opened.is_folder and any(_subfolders(opened)),
        _listed(_subfolders),
    ),
    Kind(
        "a directory without a checkpoint in it; {inner}",
        lambda opened: opened.is_folder and bool(_stranger(opened)),
        _stranger,
    ),
    Kind("a directory without a checkpoint in it; give a checkpoint file", lambda opened: opened.is_folder),
    # what stands for a file
    Kind("a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'", _text(b"version https://git-lfs")),
    Kind(f"a network of OpenVINO, compiled; {AGAIN}", _is_markup_of(b"<net ")),
    Kind("a web page or another markup file; download the file itself", _text(b"<")),
    # compressed, or around others
    Kind("compressed; unpack it, 'gunzip -k {path}', and give what comes out", _begins(b"\x1f\x8b")),
    Kind("compressed; unpack it, 'zstd -d {path}', and give what comes out", _begins(b"\x28\xb5\x2f\xfd")),
    Kind("compressed; unpack it, 'xz -dk {path}', and give what comes out", _begins(b"\xfd7zXZ\x00")),
    Kind("compressed; unpack it, 'bunzip2 -k {path}', and give what comes out", _begins(b"BZh")),
    Kind("a 7z archive; unpack it, '7z x {path}', and give the checkpoint in it", _begins(b"7z\xbc\xaf\x27\x1c")),
    Kind("a RAR archive; unpack it, and give the checkpoint in it", _begins(b"Rar!\x1a\x07")),
    Kind(
        "a model of NeMo, a tar archive; unpack it, 'tar xf {path}', and give {inner}",
        _tarred("model_config.yaml"),
        _listed(_packed),
    ),
    Kind(
        "a file of a PyTorch older than 0.1.10; load it with torch.load(weights_only=False), if you trust it, and save "
        "it again",
        lambda opened: {"pickle", "storages", "tensors"}.issubset(_members(opened)),
    ),
    Kind(
        "a tar archive; unpack it, 'tar xf {path}', and give the checkpoint in it: {inner}",
        lambda opened: any(name.endswith(CHECKPOINTS) for name in _members(opened)),
        _listed(_packed),
    ),
    Kind("a tar archive without a checkpoint in it", lambda opened: bool(_members(opened))),
    Kind(f"a model of Keras; load it with keras, take its arrays, {BY_NUMPY}", _zipped("model.weights.h5")),
    Kind(
        "a zip archive; unpack it, 'unzip {path}', and give the checkpoint in it: {inner}",
        _is_zip_around,
        _listed(_packed),
    ),
    Kind("a zip archive, but not one of torch.save, or cut short", _begins(b"PK")),
    # weights of others
    Kind(f"an HDF5 file, as Keras writes them; read its arrays with h5py, {BY_NUMPY}", _begins(b"\x89HDF\r\n\x1a\n")),
    Kind("a NumPy array without a name; save it under one with numpy.savez", _begins(b"\x93NUMPY")),
    Kind(
        "a GGUF file, whose weights were folded for llama.cpp; convert the checkpoint that it was made from",
        _begins(b"GGUF"),
    ),
    Kind(
        "a GGML file, whose weights were folded for ggml; convert the checkpoint that it was made from",
        _begins(b"lmgg", b"tjgg", b"fmgg"),
    ),
    Kind(
        f"a msgpack file, as Flax writes them; read its arrays with flax.serialization.msgpack_restore, {BY_NUMPY}",
        _is_msgpack,
    ),
    # compiled models
    Kind(f"a TensorRT engine, compiled for one device; {AGAIN}", _begins(b"ftrt", b"ptrt")),
    Kind(f"a TensorFlow Lite model, compiled; {AGAIN}", _begins(b"TFL3", at=4)),
    Kind(f"an ExecuTorch program, compiled; {AGAIN}", _begins(b"ET12", b"ET13", at=4)),
    Kind(f"an ONNX model, which fold, inspect and verify take; for all else, {AGAIN}", is_onnx),
    Kind(
        f"a SavedModel of TensorFlow; read its variables with tf.train.load_variable, {BY_NUMPY}",
        lambda opened: _is_message(opened) and opened.path.suffix == ".pb",
    ),
    Kind(f"a Core ML model, compiled for Apple's devices; {AGAIN}", _is_message),
    Kind(f"a frozen graph of TensorFlow; {AGAIN}", _is_graph),
    # pickles and texts
    Kind(
        "the metadata of a checkpoint of torch.distributed.checkpoint; give the folder that it is in",
        lambda opened: opened.start[:1] == b"\x80" and b"torch.distributed.checkpoin" in opened.start,
    ),
    Kind("a plain pickle, not a torch checkpoint; load it and save its weights with torch.save", _begins(b"\x80")),
    Kind(
        "the config of an adapter of PEFT; give the checkpoint of the base, and this folder with --adapter",
        lambda opened: _text(b"{")(opened) and opened.path.name == "adapter_config.json",
    ),
    Kind("a JSON file; give the checkpoint itself", _text(b"{", b"[")),
)
