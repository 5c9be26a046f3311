"""Files that are no checkpoints of torch are called what they are, with the way out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.distributed.checkpoint as dcp
from onnx import TensorProto, helper
from torch import nn

from wnconvert.checkpoint import load, recognise
from wnconvert.checkpoint.foreign import TABLE_END, describe
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv.weight": torch.ones(2, 2)}, buffer)
    return buffer.getvalue()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return buffer.getvalue()


def tarred(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("_DOT_", "."))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def onnx_model(**how: object) -> bytes:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [2, 2], [1.0] * 4)
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])], "net", shape[:1], shape[1:], [weight]
    )
    return helper.make_model(graph, **how).SerializeToString()


def exported_onnx() -> bytes:
    program = torch.onnx.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


def flax(**arrays: np.ndarray) -> bytes:
    """Return what `flax.serialization.msgpack_serialize` makes: maps of texts, and arrays as extensions of kind 1."""

    def text(name: str) -> bytes:
        return bytes([0xA0 | len(name)]) + name.encode()

    def array(values: np.ndarray) -> bytes:
        shape = bytes([0x90 | values.ndim, *values.shape])
        data = values.tobytes()
        inner = b"\x93" + shape + text(values.dtype.name) + b"\xc4" + bytes([len(data)]) + data
        return b"\xc7" + bytes([len(inner)]) + b"\x01" + inner

    leaves = b"".join(text(name) + array(values) for name, values in arrays.items())
    return b"\x81" + text("params") + bytes([0x80 | len(arrays)]) + leaves


def message(field: int, data: bytes) -> bytes:
    """Return one field of a protobuf message."""
    return bytes([field << 3 | 2, len(data)]) + data


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


ARRAYS = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
#: a node of a graph of TensorFlow: its name and op
NODE = message(1, message(1, b"input") + message(2, b"Placeholder"))
#: what an index of TensorFlow's ends with: the places of two blocks, padded, and the magic number of LevelDB's tables
TABLE = bytes(64) + bytes(40) + TABLE_END

FILES: dict[str, tuple[str, Callable[[], bytes] | bytes, str]] = {
    "lfs": ("m.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
    "html": ("m.pt", b"\n<!DOCTYPE html><html>", "web page"),
    "openvino": ("m.xml", b'<?xml version="1.0"?>\n<net name="a" version="11">', "OpenVINO"),
    "gzip": ("m.pt.gz", lambda: gzip.compress(torch_file()), "gunzip -k .*m.pt.gz"),
    "zstd": ("m.pt.zst", b"\x28\xb5\x2f\xfd" + bytes(40), "zstd -d"),
    "xz": ("m.pt.xz", lambda: lzma.compress(torch_file()), "xz -dk"),
    "bzip2": ("m.pt.bz2", lambda: bz2.compress(torch_file()), "bunzip2 -k"),
    "7z": ("m.7z", b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z x"),
    "rar": ("m.rar", b"Rar!\x1a\x07\x01\x00" + bytes(40), "RAR archive"),
    "tar": ("m.tar", lambda: tarred(readme=b"1", model_DOT_pt=torch_file()), "tar xf .*: 'model.pt'"),
    "empty tar": ("m.tar", lambda: tarred(readme=b"1" * 600), "tar archive without a checkpoint"),
    "nemo": (
        "m.nemo",
        lambda: tarred(model_config_DOT_yaml=b"a: 1", model_weights_DOT_ckpt=torch_file()),
        "NeMo.*give 'model_weights.ckpt'",
    ),
    "old torch": ("m.pth", lambda: tarred(sys_info=b"", pickle=b"", storages=b"", tensors=b""), "older than 0.1.10"),
    "zip": ("m.zip", lambda: zipped(net__model_DOT_pt=torch_file()), "unzip .*: 'net/model.pt'"),
    "other zip": ("m.pt", lambda: zipped(readme=b"1"), "zip archive, but not one of torch.save"),
    "cut zip": ("m.pt", b"PK\x03\x04", "cut short"),
    "keras": ("m.keras", lambda: zipped(config_DOT_json=b"{}", model_DOT_weights_DOT_h5=b""), "model of Keras.*savez"),
    "hdf5": ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(88), "HDF5.*h5py.*numpy.savez"),
    "npy": ("m.npy", npy, "NumPy array.*numpy.savez"),
    "gguf": ("m.gguf", b"GGUF\x03\x00\x00\x00" + bytes(16), "GGUF.*llama.cpp"),
    "ggml": ("m.bin", b"lmgg" + bytes(40), "GGML"),
    "flax": ("flax_model.msgpack", lambda: flax(**ARRAYS), "msgpack.*msgpack_restore"),
    "tensorrt": ("m.engine", b"ftrt" + bytes(40), "TensorRT"),
    "tflite": ("m.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
    "executorch": ("m.pte", b"\x1c\x00\x00\x00ET12" + bytes(20), "ExecuTorch"),
    "onnx": ("m.onnx", onnx_model, "ONNX model"),
    "onnx with a producer": ("m.pt", lambda: onnx_model(producer_name="pytorch", ir_version=8), "ONNX model"),
    "onnx of torch": ("m.onnx", exported_onnx, "ONNX model"),
    "coreml": ("m.mlmodel", b"\x08\x05" + message(2, message(1, message(1, b"image"))), "Core ML"),
    "saved model": ("saved_model.pb", b"\x08\x01" + message(2, message(1, message(4, b"serve"))), "SavedModel"),
    "frozen graph": ("m.pb", NODE, "frozen graph"),
    "tensorflow": ("model.ckpt-1.index", TABLE, "TensorFlow.*tf.train.load_checkpoint"),
    "pickle": ("m.pt", lambda: pickle.dumps({"a": 1}), "plain pickle"),
    "json": ("m.pt", b'{"a": 1}', "JSON"),
    "adapter config": ("adapter_config.json", b'{"peft_type": "LORA"}', "config of an adapter.*--adapter"),
    "text": ("m.pt", b"nothing at all", "no checkpoint of a known kind"),
    "raw": ("m.bin", bytes(100), "no checkpoint of a known kind"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_are_called_what_they_are(kind: str, tmp_path: Path) -> None:
    name, content, hint = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content())
    with pytest.raises(CheckpointError, match=hint) as caught:
        load(path)
    assert str(caught.value).startswith(f"{str(path)!r} is ")
    assert "{" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(FILES.keys() - {"saved model", "tensorflow", "adapter config"}))
def test_content_counts_rather_than_the_name(kind: str, tmp_path: Path) -> None:
    _, content, hint = FILES[kind]
    path = tmp_path / "m.pt.gz"
    path.write_bytes(content if isinstance(content, bytes) else content())
    with pytest.raises(CheckpointError, match=hint):
        load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".gguf", ".msgpack", ".h5", ".tar", ".gz", ".nemo", ".pb", ".distcp"])
def test_a_checkpoint_by_any_other_name_is_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(torch_file())
    assert list(load(path).content) == ["conv.weight"]


@pytest.mark.parametrize("data", [flax(**ARRAYS), onnx_model(), TABLE, tarred(readme=b"1" * 600), torch_file()])
def test_what_is_cut_short_makes_nothing_fail(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for length in range(1, min(len(data), 700)):
        path.write_bytes(data[:length])
        describe(Opened(path))


def distributed(folder: Path) -> None:
    dcp.save({"conv.weight": torch.ones(2, 2)}, checkpoint_id=folder)


def written(*names: str) -> Callable[[Path], None]:
    """Return what makes a folder with a torch file under each name."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(torch_file())

    return make


def texts(**files: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name, text in files.items():
            (folder / name.replace("_DOT_", ".")).write_text(text)

    return make


def tensorflow(folder: Path) -> None:
    (folder / "variables.index").write_bytes(TABLE)
    (folder / "variables.data-00000-of-00001").write_bytes(bytes(10))


def pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline"}))
    written("unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin")(folder)
    (folder / "scheduler").mkdir()


def coreml(folder: Path) -> None:
    (folder / "Data").mkdir()
    (folder / "Manifest.json").write_text("{}")


def other(name: str, kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = FILES[kind][1]
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        (folder / "config.json").write_text("{}")

    return make


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "dcp": (distributed, "python -m torch.distributed.checkpoint.format_utils dcp_to_torch .*here model.pt"),
    "zero": (written("zero_to_fp32.py", "global_step3/mp_rank_00_model_states.pt"), "python zero_to_fp32.py .*here"),
    "step": (written("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"), "DeepSpeed's ZeRO"),
    "diffusers": (pipeline, "pipeline of diffusers.*'unet', 'vae'$"),
    "saved model": (texts(saved_model_DOT_pb=""), "SavedModel"),
    "tensorflow": (tensorflow, "checkpoint of TensorFlow"),
    "orbax": (texts(_CHECKPOINT_METADATA="{}"), "Orbax"),
    "coreml": (coreml, "Core ML"),
    "several": (written("epoch=1.ckpt", "last.ckpt"), "with 'epoch=1.ckpt', 'last.ckpt'; give one of these files"),
    "lightning": (written("checkpoints/last.ckpt", "hparams/a.txt"), "give one of these, .*: 'checkpoints'$"),
    "flax": (other("flax_model.msgpack", "flax"), "'flax_model.msgpack' in it is a msgpack file"),
    "gguf": (other("model.gguf", "gguf"), "'model.gguf' in it is a GGUF file"),
    "empty": (lambda folder: None, "directory without a checkpoint in it; give a checkpoint file"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_are_called_what_they_are(kind: str, tmp_path: Path) -> None:
    make, hint = FOLDERS[kind]
    folder = tmp_path / "here"
    folder.mkdir()
    make(folder)
    with pytest.raises(CheckpointError, match=hint):
        load(folder)


def test_what_dcp_writes_is_told_by_each_of_its_files(tmp_path: Path) -> None:
    distributed(tmp_path)
    with pytest.raises(CheckpointError, match="give the folder that it is in"):
        load(tmp_path / ".metadata")
    with pytest.raises(CheckpointError, match=r"part of a checkpoint of .*; give its folder"):
        load(tmp_path / "__0_0.distcp")


def test_the_data_of_tensorflow_is_told_by_its_index(tmp_path: Path) -> None:
    tensorflow(tmp_path)
    with pytest.raises(CheckpointError, match="TensorFlow"):
        load(tmp_path / "variables.data-00000-of-00001")


def test_what_is_said_of_dcp_works(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    distributed(tmp_path)
    dcp_to_torch_save(tmp_path, tmp_path / "model.pt")
    assert list(load(tmp_path / "model.pt").content) == ["conv.weight"]


def test_a_diffusers_model_just_works(tmp_path: Path) -> None:
    written("diffusion_pytorch_model.bin")(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    assert recognise(tmp_path).name == "model_folder"
    assert list(load(tmp_path).content) == ["conv.weight"]


def test_onnx_files_of_the_library_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(onnx_model()), path)
    assert "ONNX" in str(describe(Opened(path)))
