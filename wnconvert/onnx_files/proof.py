"""A model and what became of it, run side by side by onnxruntime on random inputs of several sizes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from wnconvert.errors import VerificationError, described
from wnconvert.onnx_files.evaluating import options
from wnconvert.onnx_files.ops import RANDOM

#: sizes of dims that have names, until `ENOUGH` of them can be run; convolutions without padding need large ones
SIZES = (2, 5, 17, 64, 100, 224, 400, 1024, 4096)
ENOUGH = 3
#: how large the first dim of an input is, where it has a name and is not the only dim
_BATCHES = (1, 3, 2)
#: seconds after which no further size is begun
PATIENCE = 120.0
#: the relative and absolute tolerances of `torch.testing.assert_close`, by dtype
_TOLERANCES = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5)}
_NUMPY = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool"}


def prove(before: Path, after: Path, folder: Path) -> str:
    """Run both models, and return what can be said of their outputs.

    What cannot be run says nothing against the weights, which were computed one by one; so that is what is returned.

    Args:
        before: the file that was folded.
        after: the folded file, whose external data are beside it.
        folder: where the external data of ``before`` are.

    Raises:
        VerificationError: an output differs by more than rounding, or ``after`` does not run where ``before`` does.
    """
    try:
        session = _session(before, folder)
        drawn = list(_draw(session, _vocabularies(before)))
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions derive from Exception itself
        return f"outputs were not compared, for onnxruntime does not run the input: {described(error)}"
    runs, failure = _run(session, drawn)
    del session
    if not runs:
        return f"outputs were not compared, for no random input fits: {failure}"
    try:
        session = _session(after, after.parent)
        outputs = [session.run(None, feeds) for feeds, _ in runs]
    except Exception as error:
        raise VerificationError(f"the folded model fails where the input does not: {described(error)}") from error
    off = max(_compared(expected, found) for (_, expected), found in zip(runs, outputs, strict=True))
    sizes = "1 random input" if len(runs) == 1 else f"{len(runs)} random inputs of different sizes"
    if off == 0.0:
        return f"outputs compared in onnxruntime on {sizes}: the same bits"
    return (
        f"outputs compared in onnxruntime on {sizes}: the same up to rounding ({off:.2g} of the tolerance), for it"
        " has other kernels for weights that are stored"
    )


def _session(path: Path, folder: Path) -> ort.InferenceSession:
    """Return a session in which ops that draw numbers draw the same ones in both models."""
    proto = onnx.load(path, load_external_data=False)
    _seed(proto.graph.node)
    for function in proto.functions:
        _seed(function.node)
    chosen = options()
    chosen.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    return ort.InferenceSession(proto.SerializeToString(), chosen, providers=["CPUExecutionProvider"])


def _seed(nodes: Sequence[onnx.NodeProto]) -> None:
    """Give each node that draws numbers a seed: without one, it has one by its place in the graph."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if (
            node.op_type in RANDOM
            and node.domain in ("", "ai.onnx")
            and not any(a.name == "seed" for a in node.attribute)
        ):
            node.attribute.append(onnx.helper.make_attribute("seed", 1 if node.op_type == "Dropout" else 1.0))
        for attribute in node.attribute:
            pending += attribute.g.node if attribute.HasField("g") else ()
            for graph in attribute.graphs:
                pending += graph.node


def _vocabularies(path: Path) -> dict[str, int]:
    """Return how many rows the tables have that inputs are looked up in."""
    graph = onnx.load(path, load_external_data=False).graph
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in rows:
            least = min(rows[node.input[0]], found.get(node.input[1], 1 << 31))
            found[node.input[1]] = least
    return found


def _draw(session: ort.InferenceSession, vocabularies: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs; dims of one name have one size, the first ones small ones.

    Whole numbers are 0 and 1, or indices of the table that they are looked up in.
    """
    generator = np.random.default_rng(0)
    named = any(not isinstance(size, int) for each in session.get_inputs() for size in each.shape)
    for index, size in enumerate(SIZES if named else SIZES[:ENOUGH]):
        sizes: dict[object, int] = {}
        for each in session.get_inputs():
            for place, dim in enumerate(each.shape):
                if not isinstance(dim, int):
                    is_batch = place == 0 and (len(each.shape) > 1 or "batch" in str(dim).lower())
                    sizes.setdefault(dim or (each.name, place), _BATCHES[index % 3] if is_batch else size)
        yield {each.name: _value(each, sizes, vocabularies, generator) for each in session.get_inputs()}


def _value(
    each: ort.NodeArg, sizes: Mapping[object, int], vocabularies: Mapping[str, int], generator: np.random.Generator
) -> np.ndarray:
    shape = [dim if isinstance(dim, int) else sizes[dim or (each.name, place)] for place, dim in enumerate(each.shape)]
    kind = _NUMPY.get(each.type) or each.type.removeprefix("tensor(").removesuffix(")")
    if not each.type.startswith("tensor(") or kind in ("string", "bfloat16") or kind.startswith("float8"):
        raise TypeError(f"no {each.type} is drawn for its input {each.name!r}")
    if kind.startswith("float"):
        return generator.standard_normal(shape).astype(kind)
    return generator.integers(0, vocabularies.get(each.name, 2), shape).astype(kind)


def _run(
    session: ort.InferenceSession, drawn: Sequence[dict[str, np.ndarray]]
) -> tuple[list[tuple[dict[str, np.ndarray], list[object]]], str]:
    """Return the inputs that can be run, with their outputs, and why the others cannot."""
    runs: list[tuple[dict[str, np.ndarray], list[object]]] = []
    failure, began = "", time.monotonic()
    for feeds in drawn:
        if len(runs) == ENOUGH or time.monotonic() - began > PATIENCE:
            break
        try:
            runs.append((feeds, session.run(None, feeds)))
        except Exception as error:  # noqa: BLE001 - as above
            failure = described(error)
    return runs, failure


def _compared(expected: object, found: object) -> float:
    """Return how far outputs are apart, in tolerances; 0 says that all bits are the same.

    Raises:
        VerificationError: farther than rounding explains.
    """
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        return max((_compared(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return max((_compared(expected[key], found[key]) for key in expected), default=0.0)
    a, b = np.asarray(expected), np.asarray(found)
    if a.dtype == b.dtype and a.shape == b.shape:
        if a.dtype == object or a.dtype.kind in "US":
            if a.tolist() == b.tolist():
                return 0.0
        elif a.tobytes() == b.tobytes():
            return 0.0
        elif a.dtype.kind in "fV" and (off := _off(a, b)) <= 1.0:
            return off
    raise VerificationError("the folded model gives other outputs than the input does; please report it")


def _off(a: np.ndarray, b: np.ndarray) -> float:
    relative, absolute = _TOLERANCES.get(a.dtype.name, (0.0, 0.0))
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        distances = np.where(same, 0.0, np.abs(a - b) / (absolute + relative * np.abs(a)))
    return float(np.nan_to_num(distances, nan=np.inf).max(initial=0.0))
