"""ONNX files are read with no more trust than others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_files.graphs import one_layer, saved
from wnconvert.errors import CheckpointError
from wnconvert.onnx_files.reading import bytes_of, read, tensors_of


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose tensors are in a file beside it."""
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save(one_layer(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def changed(path: Path, change: Callable[[onnx.TensorProto], None]) -> None:
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph.initializer[0])
    saved(proto, path)


def put(key: str, value: str) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value

    return change


def test_a_file_is_read_with_its_data_mapped(external: Path) -> None:
    file = read(external)
    assert file.data == (external.parent / "m.data",)
    assert file.bytes == sum(path.stat().st_size for path in external.parent.iterdir())
    tensor = file.model.graph.initializers["conv.weight_v"].const_value
    assert np.array_equal(tensor.numpy(), onnx.numpy_helper.to_array(one_layer().graph.initializer[1]))
    assert len(list(tensors_of(file.proto))) == 3


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/passwd", "not inside of it"),
        ("../secret", "not inside of it"),
        ("sub/../../secret", "not inside of it"),
        ("link", "leads out of the folder"),
        ("missing", "no such file"),
        ("", "not inside of it"),
        ("m.data\0", "not inside of it"),
        ("a" * 3000, r"its data are in a file of the name 'a{199}\.\.\., which is damaged"),
    ],
)
def test_data_lie_inside_of_the_folder(external: Path, location: str, message: str) -> None:
    (external.parents[1] / "secret").write_bytes(b"0" * 1000)
    (external.parent / "link").symlink_to("../secret")
    changed(external, put("location", location))
    with pytest.raises(CheckpointError, match=message):
        read(external)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("offset", "1000000", "which has"),
        ("offset", "-4", "which has"),
        ("offset", "four", "damaged"),
        ("length", "4", "and it needs 32"),
        ("length", "99999999999999999999", "and it needs 32"),
    ],
)
def test_data_are_as_long_as_the_shape_says(external: Path, key: str, value: str, message: str) -> None:
    changed(external, put(key, value))
    with pytest.raises(CheckpointError, match=message):
        read(external)


def test_a_tensor_claims_no_more_than_there_is(external: Path, tmp_path: Path) -> None:
    def grow(tensor: onnx.TensorProto) -> None:
        tensor.dims[0] = 1 << 40

    changed(external, grow)
    with pytest.raises(CheckpointError, match="it needs"):
        read(external)
    proto = one_layer()
    grow(proto.graph.initializer[0])
    with pytest.raises(CheckpointError, match=r"shape|damaged"):
        read(saved(proto, tmp_path / "inline.onnx"))


@pytest.mark.parametrize("data", [b"\x08\x09", b"not a model at all", b"\x08\x09\x3a\xff\xff\xff\xff\x0f", b"\0" * 100])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="no ONNX model"):
        read(path)


def test_a_graph_that_gives_a_name_twice_is_refused(tmp_path: Path) -> None:
    proto = one_layer()
    proto.graph.node.append(proto.graph.node[0])
    with pytest.raises(CheckpointError, match="damaged: ValueError: Output 'w_norm' is redeclared"):
        read(saved(proto, tmp_path / "m.onnx"))


def test_a_graph_that_reads_what_nothing_makes_is_refused(tmp_path: Path) -> None:
    proto = one_layer()
    proto.graph.node[-1].input[0] = "z"
    with pytest.raises(CheckpointError, match="damaged: 'z' is read, and nothing makes it"):
        read(saved(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("old", [b"conv.weight_v", b"Conv"])
def test_names_are_texts(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "m.onnx"
    saved(one_layer(), path)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, b"\xff" + old[1:]))
    with pytest.raises(CheckpointError, match=r"is no UTF-8|must be a string"):
        read(path)


def test_the_name_of_a_data_file_is_a_text(external: Path) -> None:
    changed(external, put("location", "MM.data"))
    external.write_bytes(external.read_bytes().replace(b"MM.data", b"\xff\xfe.data"))
    with pytest.raises(CheckpointError, match=r"in a file of the name b'.xff.xfe.data'"):
        read(external)


def test_a_name_that_fills_the_file_is_cut_in_the_message(tmp_path: Path) -> None:
    proto = one_layer()
    proto.graph.node[0].input[0] = "a" * 3000
    with pytest.raises(CheckpointError, match=r"'a+\.\.\. is read, and nothing makes it") as caught:
        read(saved(proto, tmp_path / "m.onnx"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_the_bytes_of_elements_are_counted() -> None:
    kinds = {onnx.TensorProto.FLOAT: 24, onnx.TensorProto.INT4: 3, onnx.TensorProto.DOUBLE: 48}
    for kind, expected in kinds.items():
        assert bytes_of(onnx.TensorProto(dims=[2, 3], data_type=kind)) == expected
    for wrong in ({"dims": [-1], "data_type": 1}, {"dims": [1], "data_type": 8}, {"dims": [1], "data_type": 99}):
        with pytest.raises(ValueError, match=r"that|99"):
            bytes_of(onnx.TensorProto(**wrong))
