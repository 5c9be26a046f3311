"""Programs of `torch.export` in files: what loading one would run is looked for before torch loads it.

`torch.export.load` unpickles constants, and example inputs as whatever they are; it evaluates expressions for sizes as
Python (`sympy.sympify`), imports what a tree's context names, and loads compiled libraries. A program needs none of it,
so each is refused unless the file is trusted. Nor may a program call other ops than torch's own, which are known to
compute alone: it is run when it is compared.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from wnconvert.checkpoint.formats.torch_zip import TorchZipFormat
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, UnsafePickleError
from wnconvert.torch_private import load_programs

#: the one program of an archive that `torch.export.save` writes, and its other records, within the archive's folder
_MODEL, _EXAMPLE = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RECORDS = re.compile(
    r"(models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/.*"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id))"
)
#: what a node may call: ops of torch that compute, and graphs of them; and what Python computes sizes by
_OPS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!_?from_file|_print|save|warn)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|map|scan|associative_scan|strict_mode|flex_attention"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|invoke_subgraph|tag_activation_checkpoint)"
    r"|_operator\.\w+|math\.(ceil|floor|trunc)|torch\.sym_\w+"
)
#: what the expression of a size consists of: calls, as `sympy.srepr` writes them, and arithmetic, as older files have
_SYNTAX = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.unaryop, ast.cmpop),
)
_FUNCTIONS = frozenset(
    (
        *(
            "Symbol",
            "Integer",
            "Rational",
            "Float",
            "Add",
            "Mul",
            "Pow",
            "Mod",
            "Max",
            "Min",
            "Abs",
            "floor",
            "ceiling",
        ),
        *(
            "Piecewise",
            "ExprCondPair",
            "Equality",
            "Unequality",
            "StrictLessThan",
            "LessThan",
            "GreaterThan",
            "Identity",
        ),
        *("StrictGreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Not", "And", "Or", "Xor", "FloorDiv", "CeilDiv"),
        *("ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt"),
        *("LShift", "RShift", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "ToFloat"),
    )
)
#: ... whose first argument is a text: the name of a size, or the digits of a number
_OF_TEXTS = {"Symbol": re.compile(r"\w{1,100}"), "Float": re.compile(r"[-+.\de]{1,100}")}
#: the name of a size, and what stands for itself
_NAME = re.compile(r"[a-zA-Z]{1,8}\d+|oo|int_oo|nan|zoo|true|false|True|False")
#: how many powers there may be, and how high, so that no number has more digits than can be computed
_POWERS, _HIGHEST, _LARGEST = 8, 4, 1 << 64
#: a longer expression, or one nested deeper, is no size
_LONGEST = 10_000


def load(opened: Opened, *, trust: bool) -> ExportedProgram:
    """Return the program that a file holds.

    Args:
        opened: the file.
        trust: let torch run what the file names.

    Raises:
        UnsafePickleError: that would run code, and the file is not trusted.
        CheckpointError: it is damaged, or holds something else than one program.
    """
    path = opened.path
    _require_one(opened)
    if not trust:
        _require_harmless(opened)
    opened.archive.check()
    try:
        with path.open("rb") as file:
            programs = load_programs(file)
    except Exception as error:  # a damaged file can make it raise anything at all
        raise CheckpointError(f"{str(path)!r} is damaged, or torch does not load it: {first_line(error)}") from error
    program = programs.get("model")
    if not isinstance(program, ExportedProgram):
        raise CheckpointError(f"{str(path)!r} does not hold a program of torch.export.save")
    return program


def save(program: ExportedProgram, path: Path) -> None:
    """Write a program as `torch.export.save` does.

    Raises:
        OSError: there is no room.
    """
    with path.open("wb") as file:
        torch.export.save(program, file)


def _require_one(opened: Opened) -> None:
    """Check that an archive has the records of one program and no others."""
    path, names = str(opened.path), opened.records
    inside = [name.partition("/")[2] for name in names]
    if any(name.startswith("data/aotinductor/") for name in inside):
        raise CheckpointError(f"{path!r} is a package of compiled code; fold the program, and compile that")
    if _MODEL not in inside:
        raise CheckpointError(
            f"{path!r} holds no single program of this version of torch.export; load it with torch.export.load, and "
            "save it again with torch.export.save"
        )
    if strange := [name for name in inside if not _RECORDS.fullmatch(name)]:
        if any(name.startswith("data/constants/custom_obj") for name in strange):
            raise _unsafe(opened, "objects of its own")
        raise CheckpointError(f"{path!r} has a record {strange[0]!r}, which no program has; save it with torch.export")


def _require_harmless(opened: Opened) -> None:
    """Check that loading a program runs nothing.

    Raises:
        UnsafePickleError: it would.
        CheckpointError: the archive is damaged.
    """
    archive = opened.archive
    folder = archive.folder_of(_MODEL)
    try:
        for name in _CONFIGS:
            config = json.loads(archive.data(f"{folder}/{name}"))["config"]
            if any(entry["use_pickle"] for entry in config.values()):
                raise _unsafe(opened, "pickled tensors")
        for key, value in _entries(json.loads(archive.data(f"{folder}/{_MODEL}"))):
            check = _CHECKS.get(key)
            if check is not None and isinstance(value, str) and (found := check(value)):
                raise _unsafe(opened, found)
        _require_plain(opened, archive.data(f"{folder}/{_EXAMPLE}"))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make it raise anything at all
        raise CheckpointError(f"{str(opened.path)!r} is damaged: {first_line(error)}") from error


def _require_plain(opened: Opened, data: bytes) -> None:
    """Check that example inputs are tensors and plain data: torch reads others as well, by running their code."""
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "inputs.pt"
        inner.write_bytes(data)
        try:
            TorchZipFormat().read(Opened(inner))
            torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:
            raise _unsafe(opened, "example inputs that are no plain tensors") from error


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a JSON tree with its value."""
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield from node.items()
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _expression(text: str) -> str | None:
    """Say what is wrong with the expression of a size, which is evaluated as Python."""
    if len(text) > _LONGEST:
        return "an expression that is no size"
    wrong = f"an expression that is no size, {text[:80]!r}"
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return wrong
    texts = [text for node in nodes if isinstance(node, ast.Call) for text in _texts(node)]
    known = all(_is_known(node, texts) for node in nodes)
    powers = [node for node in nodes if isinstance(node, ast.Call) and _name(node) == "Pow"]
    return None if known and len(powers) <= _POWERS and all(map(_is_low, powers)) else wrong


def _is_known(node: ast.AST, texts: list[ast.AST]) -> bool:
    """Return whether part of an expression is one that sizes have; the texts are known to be harmless."""
    if isinstance(node, ast.Constant):
        number = isinstance(node.value, (int, float)) and abs(node.value) <= _LARGEST
        return number or node in texts
    if isinstance(node, ast.Call):
        return _name(node) in _FUNCTIONS and all(isinstance(each.value, ast.Constant) for each in node.keywords)
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _NAME.fullmatch(node.id) is not None
    return isinstance(node, _SYNTAX)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _texts(call: ast.Call) -> list[ast.AST]:
    """Return the arguments of a call that are harmless texts; most of sympy's functions would evaluate them."""
    pattern, first = _OF_TEXTS.get(_name(call)), call.args[0] if call.args else None
    if pattern is None or not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return []
    return [first] if pattern.fullmatch(first.value) else []


def _is_low(power: ast.Call) -> bool:
    """Return whether the exponent of a power is a small number."""
    exponent = power.args[1] if len(power.args) == 2 else None
    numbers = exponent.args if isinstance(exponent, ast.Call) and _name(exponent) in ("Integer", "Rational") else []
    try:
        return bool(numbers) and all(abs(ast.literal_eval(number)) <= _HIGHEST for number in numbers)
    except (ValueError, TypeError):
        return False


def _tree(text: str) -> str | None:
    """Say what is wrong with the tree of inputs or outputs, whose contexts may name what is then imported."""
    pending = [json.loads(text)[1]]
    while pending:
        spec = pending.pop()
        pending += spec["children_spec"]
        kind, context = spec["type"], spec["context"]
        if kind == "collections.defaultdict" or (context is not None and _names_code(context)):
            return f"a container {kind!r} that names code"
    return None


def _names_code(context: Any) -> bool:
    value = json.loads(context) if isinstance(context, str) and context[:1] in "[{" else context
    return any(key in ("__enum__", "fqn", "default_factory_module") for key, _ in _entries(value))


def _op(text: str) -> str | None:
    return None if _OPS.fullmatch(text) else f"a call of {text[:80]!r}, which is none of torch's own ops"


#: what is looked at in the JSON of a program, by key
_CHECKS: dict[str, Callable[[str], str | None]] = {
    "expr_str": _expression,
    "in_spec": _tree,
    "out_spec": _tree,
    "target": _op,
    "as_operator": _op,
}


def _unsafe(opened: Opened, what: str) -> UnsafePickleError:
    return UnsafePickleError(
        f"{str(opened.path)!r} has {what}; torch would run code for that, so it is only loaded if you trust the file "
        "(--trust)"
    )
