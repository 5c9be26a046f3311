"""What a weight is called: its exporter may have given it a name of its own making, but what it is made of tells.

torch's exporters keep the names of parameters, and what is computed from them becomes ``mul_7`` or ``/Mul_output_0``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import onnx_ir as ir

from wnconvert.naming import ORIGINAL, identify_weight
from wnconvert.onnx_files.expressions import Weight, graphs_of
from wnconvert.scheme import Scheme

#: names that exporters make up for constants, and no parameter has
_MADE_UP = re.compile(r"onnx::|/|.*_output_\d+$|(val|const|_val|initializer|lifted_tensor)_?\d*$")
#: what nodes are called, and so what is computed of them: the name of the op with a number
_NUMBERED = re.compile(r"[^.]+_\d+$")
#: where torch's exporter tells that an initializer is a parameter or buffer, or that it has computed it
_SIGNATURE, _FOLDED_FROM = "pkg.torch.export.graph_signature.InputSpec.kind", "pkg.onnxscript.optimizer.folded_from"
#: where torch's exporter tells from which module and op a node comes
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
#: the classes whose weight is read as it is, and those whose weight is read transposed
_AS_IT_IS, _TRANSPOSED = (
    ("torch.nn.modules.conv.", "torch.nn.utils.parametrize.ParametrizedConv"),
    "aten.linear.default",
)
#: what tells that a weight is the transposed parameter
TRANSPOSED = ".T"
#: what a weight is called whose name is that of a tensor which something else reads
FOLDED = "_folded"


class Names:
    """The names of a model, none of which may be given twice, in whatever graph."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in graphs_of(model):
            self._taken |= {value.name for value in graph.inputs if value.name}
            self._taken |= set(graph.initializers)
            self._taken |= {output.name for node in graph for output in node.outputs if output.name}

    def free(self, name: str) -> None:
        """Let a name be given again."""
        self._taken.discard(name)

    def is_free(self, name: str) -> bool:
        """Return whether nothing has a name."""
        return name not in self._taken

    def take(self, name: str) -> str:
        """Return a name, with a number where it is taken."""
        given, number = name, 0
        while given in self._taken:
            number += 1
            given = f"{name}_{number}"
        self._taken.add(given)
        return given


def is_made_up(value: ir.Value) -> bool:
    """Return whether an exporter made up the name of a stored tensor, which so is no parameter as the model has it."""
    name = value.name or ""
    if _SIGNATURE in value.metadata_props or "." in name:
        return False
    return _FOLDED_FROM in value.metadata_props or bool(_MADE_UP.match(name) or _NUMBERED.match(name))


def keys_of(weight: Weight) -> tuple[str, ...]:
    """Return the names of the parameters that a weight is computed from, without what its exporter made up."""
    names = [leaf.name for leaf in weight.leaves if leaf.is_initializer() and leaf.name and not _counts(leaf)]
    own = [name for name in names if not _MADE_UP.match(name)]
    return tuple(own or names)


def _counts(leaf: ir.Value) -> bool:
    """Return whether a stored tensor holds whole numbers: axes or a shape."""
    return leaf.dtype is not None and not leaf.dtype.is_floating_point()


def identify(weight: Weight, shape: Sequence[int] | None = None) -> tuple[str, Scheme | None]:
    """Return what a weight is to be called, and the scheme that it is under, if its parts show one.

    Args:
        weight: the weight.
        shape: its shape, where that is known.
    """
    keys = keys_of(weight)
    stem, scheme = identify_weight(keys)
    if stem is not None:
        return stem + _arranged(weight), scheme
    if shape is None and weight.value.shape is not None and weight.value.shape.is_static():
        shape = weight.value.shape.numpy()
    if (name := _like(weight, shape)) is not None:
        return name, None
    return told_by_module(*weight.sites[0]) or weight.value.name or "weight", None


def told_by_module(node: ir.Node, index: int) -> str | None:
    """Return the name of the parameter that a node reads as its weight, by its bias or by what torch's exporter noted.

    Args:
        node: the node.
        index: the operand.
    """
    if index != 1:
        return None
    if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2 and (bias := node.inputs[2]) is not None:
        module, dot, name = (bias.name or "").rpartition(".")
        if dot and name == "bias" and bias.is_initializer() and not _MADE_UP.match(bias.name or ""):
            return f"{module}.weight"
    scopes, classes = _texts(node, _SCOPES), _texts(node, _CLASSES)
    if len(scopes) < 2 or len(classes) != len(scopes) or not scopes[-2]:
        return None
    if node.op_type in ("Conv", "ConvTranspose") and classes[-2].startswith(_AS_IT_IS):
        return f"{scopes[-2]}.weight"
    if node.op_type == "MatMul" and classes[-1] == _TRANSPOSED:
        return f"{scopes[-2]}.weight{TRANSPOSED}"
    return None


def _texts(node: ir.Node, key: str) -> list[str]:
    """Return a list of texts that an exporter wrote into the properties of a node, if it is one."""
    try:
        found = ast.literal_eval(node.metadata_props.get(key, "[]"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []


def _arranged(weight: Weight) -> str:
    """Return what tells in which arrangement a weight is read: nothing, where it is the parameter itself."""
    last = weight.nodes[-1]
    if last.op_type == "Transpose" and weight.sites[0][0].op_type in ("MatMul", "Gemm"):
        return TRANSPOSED
    return f".{weight.operand}" if weight.sites[0][0].op_type in ("LSTM", "GRU", "RNN") else ""


def _like(weight: Weight, shape: Sequence[int] | None) -> str | None:
    """Return the name of the one parameter of a weight's shape that it is computed from, or of its transposed one."""
    if shape is None:
        return None
    own = [leaf for leaf in weight.leaves if leaf.is_initializer() and not _MADE_UP.match(leaf.name or "/")]
    for wanted, end in ((tuple(shape), ""), (tuple(shape)[::-1], TRANSPOSED)):
        alike = [leaf for leaf in own if leaf.shape is not None and tuple(leaf.shape.numpy()) == wanted]
        if end == "" and weight.nodes[-1].op_type == "Transpose" and len(wanted) == 2:
            continue  # a square one, transposed
        if len(alike) == 1:
            return f"{(alike[0].name or '').removesuffix(ORIGINAL)}{end}"
    return None
