"""A folded graph as a file: the proto that was read, with what the pass changed, and nothing else.

It is not serialized from the graph, which forgets what onnx-ir does not know. What was external is external again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from wnconvert.errors import CheckpointError, OutputError, VerificationError
from wnconvert.onnx_files.expressions import bodies, graphs_of
from wnconvert.onnx_files.folding import FoldResult
from wnconvert.onnx_files.reading import LARGEST, OnnxFile, bytes_of, place_of, read, tensors_of

#: a new weight of a file with external data is external too if it has more bytes
SMALL = 256
#: what is kept free for the graph, where new weights make a file too large for a single message
_SPARE = 1 << 24
#: bytes that are copied at once
_PIECE = 1 << 24
#: a tensor in a file of external data begins at a multiple of this, so that it can be mapped
_ALIGNMENT = 64


def write(file: OnnxFile, result: FoldResult, folder: Path, name: str, data_name: str) -> list[str]:
    """Write a folded file into a folder, with its external data beside it, if it has any; the proto is used up by that.

    Args:
        file: what was read.
        result: what became of its graph.
        folder: where to write.
        name: the name of the file.
        data_name: the name of the file of external data.

    Returns:
        the names of the files that were written, the model last.

    Raises:
        OutputError: it is too large to be written.
    """
    proto = file.proto
    _edit(proto.graph, result.model.graph, file, result)
    inline = sum(value.const_value.nbytes for value in result.values if value.const_value is not None)
    external = bool(file.data) or proto.ByteSize() + inline > LARGEST - _SPARE
    written = [name]
    if external:
        with (folder / data_name).open("xb") as data:
            for tensor in tensors_of(proto):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    _copy(tensor, file.path.parent, data, data_name)
            _add(proto, result, data, data_name)
            written = [data_name, name] if data.tell() else written
        if written == [name]:
            (folder / data_name).unlink()
    else:
        _add(proto, result, None, data_name)
    if proto.ByteSize() > LARGEST:
        raise OutputError(f"the graph has {proto.ByteSize()} bytes, and an ONNX file has less than 2 GB")
    (folder / name).write_bytes(proto.SerializeToString())
    return written


def require_held(result: FoldResult, path: Path) -> None:
    """Check that a written file reads as the folded graph: the same calls, and the same bits in all that is stored.

    Raises:
        VerificationError: it does not.
    """
    try:
        graphs = list(graphs_of(read(path).model))
    except CheckpointError as error:
        raise VerificationError(f"what was written cannot be read back, so it was not kept: {error}") from error
    for graph, written in zip_longest(graphs_of(result.model), graphs):
        if not (
            graph and written and _calls(graph) == _calls(written) and {*graph.initializers} == {*written.initializers}
        ):
            raise VerificationError("the written graph is not what was to be written; nothing was kept")
        for name, value in graph.initializers.items():
            if not _same(value.const_value, written.initializers[name].const_value):
                raise VerificationError(f"the written {name!r} is not what was to be written; nothing was kept")


def _calls(graph: ir.Graph) -> list[tuple[str, str, list[str], list[str]]]:
    return [
        (
            node.domain,
            node.op_type,
            [v.name or "" if v else "" for v in node.inputs],
            [v.name or "" for v in node.outputs],
        )
        for node in graph
    ]


def _same(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tobytes() == other.tobytes()


def _edit(proto: onnx.GraphProto, graph: ir.Graph, file: OnnxFile, result: FoldResult) -> None:
    """Take out of a graph what the pass took out, and call what is read by its new name."""
    kept = {id(node) for node in graph}
    nodes: list[onnx.NodeProto] = []
    gone: set[str] = set()
    for node, written in zip(file.nodes[id(graph)], proto.node, strict=True):
        if id(node) not in kept:
            gone.update(written.output)
            continue
        for index, value in enumerate(node.inputs):
            name = "" if value is None else value.name or ""
            if index < len(written.input) and written.input[index] != name:
                written.input[index] = name
        for inner, inside in zip(bodies(node), _bodies(written), strict=True):
            _edit(inside, inner, file, result)
        nodes.append(written)
    if gone:
        del proto.node[:]
        proto.node.extend(nodes)
    _edit_tensors(proto, graph, gone, result)


def _edit_tensors(proto: onnx.GraphProto, graph: ir.Graph, gone: set[str], result: FoldResult) -> None:
    for tensor in proto.initializer:
        tensor.name = result.renamed.get(tensor.name, tensor.name)
    new = {value.name for value in result.values if value.graph is graph}  # one may have the name of one that is gone
    stay = [each for each in proto.initializer if each.name in graph.initializers and each.name not in new]
    gone |= {each.name for each in proto.initializer}.difference(each.name for each in stay)
    if len(stay) < len(proto.initializer):
        del proto.initializer[:]
        proto.initializer.extend(stay)
    for field in (proto.value_info, proto.quantization_annotation):
        rest = [each for each in field if _name(each) not in gone]
        if len(rest) < len(field):
            del field[:]
            field.extend(rest)
        for each in rest:
            if (name := result.renamed.get(_name(each))) is not None:
                setattr(each, "name" if isinstance(each, onnx.ValueInfoProto) else "tensor_name", name)


def _name(each: onnx.ValueInfoProto | onnx.TensorAnnotation) -> str:
    return each.name if isinstance(each, onnx.ValueInfoProto) else each.tensor_name


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _add(proto: onnx.ModelProto, result: FoldResult, data: BinaryIO | None, data_name: str) -> None:
    """Add the new weights to the graphs that they belong to."""
    homes = dict(_paired(proto.graph, result.model.graph))
    for value in result.values:
        tensor = value.const_value
        if tensor is None or value.graph is None:
            continue
        written = homes[id(value.graph)].initializer.add()
        if data is None or tensor.nbytes <= SMALL:
            ir.serde.serialize_tensor_into(written, tensor)
            continue
        written.name, written.data_type = value.name or "", tensor.dtype
        written.dims.extend(tensor.shape.numpy())
        _begin(written, data, data_name, tensor.nbytes)
        data.write(tensor.tobytes())


def _paired(proto: onnx.GraphProto, graph: ir.Graph) -> Iterator[tuple[int, onnx.GraphProto]]:
    yield id(graph), proto
    for node, written in zip(graph, proto.node, strict=True):
        for inner, inside in zip(bodies(node), _bodies(written), strict=True):
            yield from _paired(inside, inner)


def _begin(tensor: onnx.TensorProto, data: BinaryIO, data_name: str, length: int) -> None:
    """Write where the data of a tensor will be, and go there."""
    data.write(b"\0" * (-data.tell() % _ALIGNMENT))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", data_name), ("offset", data.tell()), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _copy(tensor: onnx.TensorProto, folder: Path, data: BinaryIO, data_name: str) -> None:
    """Copy the data of a tensor from the file where they are."""
    location, offset, length = place_of(tensor)
    left = length if length is not None else bytes_of(tensor)
    _begin(tensor, data, data_name, left)
    with (folder / location).open("rb") as source:
        source.seek(offset)
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise OutputError(f"{location!r} was cut short while it was read")
            data.write(piece)
            left -= len(piece)
