"""An ONNX file and the files of its external data, read with no more trust than any other file.

Data stay where they are: they are mapped where something is computed from them, and copied where they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from wnconvert.checkpoint.storage import paths
from wnconvert.errors import CheckpointError, described
from wnconvert.onnx_files.expressions import first_unknown, graphs_of

#: the largest protobuf message that there can be
LARGEST = (1 << 31) - 1
#: where the data of a tensor are that are not in the file
_EXTERNAL = onnx.TensorProto.EXTERNAL
#: characters of the longest name of a file of data: far more than exporters write
_LONGEST = 1000


@dataclass(frozen=True)
class OnnxFile:
    """A file as it is, and as a graph.

    Attributes:
        path: the file.
        proto: what is in it, without external data.
        model: the same as a graph.
        data: the files of external data.
        nodes: the nodes of each graph as they were read, by its id.
        graphs: its graph, and the graphs in that.
    """

    path: Path
    proto: onnx.ModelProto
    model: ir.Model
    data: tuple[Path, ...]
    nodes: dict[int, list[ir.Node]]
    graphs: tuple[ir.Graph, ...]

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(path.stat().st_size for path in (self.path, *self.data))


def read(path: Path) -> OnnxFile:
    """Read a file, and check that what it names as its data lies beside it and is as long as it says.

    Raises:
        CheckpointError: it is damaged, or names data that it must not.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise CheckpointError(
            f"{str(path)!r} has {size} bytes, and an ONNX file has less than 2 GB; it is no ONNX model"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:
        raise CheckpointError(f"{str(path)!r} is no ONNX model, or is damaged: {described(error)}") from error
    if not proto.graph.node:
        raise CheckpointError(f"{str(path)!r} holds no graph with a node in it; it is no ONNX model, or cut short")
    data = _check_data(proto, path)
    try:
        model = ir.serde.deserialize_model(proto)
        ir.external_data.set_base_dir(model.graph, path.parent.resolve())
        graphs = tuple(graphs_of(model))
        for graph in graphs:
            _check_tensors(graph, path)
            _check_names(graph, path)
        if (name := first_unknown(model)) is not None:
            raise CheckpointError(
                f"the graph in {str(path)!r} is damaged: {_shown(name)} is read, and nothing makes it"
            )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"the graph in {str(path)!r} is damaged: {_first(error)}") from error
    return OnnxFile(path, proto, model, data, {id(graph): list(graph) for graph in graphs}, graphs)


def _check_names(graph: ir.Graph, path: Path) -> None:
    """Check that names are texts: protobuf reads what is no UTF-8 as bytes, which nothing can write again."""
    for node in graph:
        values = (value.name for value in (*node.inputs, *node.outputs) if value is not None)
        for name in (node.name, node.op_type, node.domain, node.overload, *values, *node.attributes):
            if isinstance(name, bytes):
                raise CheckpointError(f"the graph in {str(path)!r} is damaged: the name {_shown(name)} is no UTF-8")


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield each tensor of a model that may have external data: initializers, and attributes of nodes."""
    pending = [proto.graph]
    nodes = [list(function.node) for function in proto.functions]
    while pending or nodes:
        if pending:
            graph = pending.pop()
            yield from graph.initializer
            nodes.append(list(graph.node))
        for node in nodes.pop():
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def place_of(tensor: onnx.TensorProto) -> tuple[str, int, int | None]:
    """Return in which file the data of an external tensor are, from where on, and how many bytes they have.

    Raises:
        ValueError: the numbers are none.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not isinstance(location, str) or len(location) > _LONGEST:  # protobuf reads what is no UTF-8 as bytes
        raise ValueError(f"that its data are in a file of the name {_shown(location)}")
    length = int(entries["length"]) if "length" in entries else None
    return location, int(entries.get("offset", "0")), length


def _check_data(proto: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    files: dict[str, Path] = {}
    for tensor in tensors_of(proto):
        if tensor.data_location != _EXTERNAL:
            continue
        try:
            location, offset, length = place_of(tensor)
            needed = bytes_of(tensor)
        except ValueError as error:
            raise CheckpointError(f"{str(path)!r} says of {_shown(tensor.name)} {error}, which is damaged") from error
        if location not in files:
            files[location] = paths.inside(path.parent, location)
        there = files[location].stat().st_size
        if length is not None and length != needed:
            raise CheckpointError(
                f"{str(path)!r} says that {_shown(tensor.name)} has {length} bytes, and it needs {needed}"
            )
        if offset < 0 or offset + needed > there:
            where = f"bytes {offset} to {offset + needed} of {location!r}"
            raise CheckpointError(f"{str(path)!r} says that {_shown(tensor.name)} is in {where}, which has {there}")
    return tuple(dict.fromkeys(files.values()))


def bytes_of(tensor: onnx.TensorProto) -> int:
    """Return how many bytes the elements of a tensor take, by its shape and type.

    Raises:
        ValueError: these are none.
    """
    count = 1
    for size in tensor.dims:
        if size < 0:
            raise ValueError(f"that a dim has size {size}")
        count *= size
    kind = ir.DataType(tensor.data_type)
    if kind in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        raise ValueError(f"that it is external, of type {kind.name}")
    return (count * kind.bitwidth + 7) // 8


def _check_tensors(graph: ir.Graph, path: Path) -> None:
    """Check of each stored tensor that it has the elements that its shape says, and a name."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            raise CheckpointError(f"{str(path)!r} holds no data of {_shown(name)}")
        is_here = not isinstance(tensor, ir.ExternalTensor) and tensor.dtype is not ir.DataType.STRING
        if is_here and len(tensor.tobytes()) != tensor.nbytes:
            raise CheckpointError(f"{_shown(name)} in {str(path)!r} has other than the bytes that its shape says")


def _first(error: BaseException) -> str:
    """Return the cause of an error in one line; onnx-ir tells the whole of what it could not read."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _cut(described(error))


def _shown(name: str | bytes) -> str:
    """Return a name as errors give it: in a damaged file it may be as long as the file."""
    return _cut(repr(name))


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
