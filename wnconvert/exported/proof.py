"""Compare a converted program with the one that it was made of, by running both, before it is handed over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.errors import OptionError, VerificationError, described
from wnconvert.exported.running import Runner, user_inputs
from wnconvert.verification import same_bits


def prove(program: ExportedProgram, converted: ExportedProgram, example_inputs: tuple[Any, ...] | None = None) -> str:
    """Run both programs on the same inputs of several sizes, and return in how many they gave the same bits.

    A size at which ``program`` itself fails says nothing. Where none is left, that is what is returned.

    Raises:
        VerificationError: an output, or a tensor that both update, differs.
    """
    before, after = Runner(program), Runner(converted)
    compared, failure = 0, "it has no example inputs, and none could be made"
    inputs = user_inputs(program, example_inputs)
    while True:
        try:
            values = next(inputs, None)
            if values is None:
                break
            expected = before.run(_copies(values))
        except OptionError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the model's own code, which may want other inputs
            failure = described(error)
            continue
        _require_same(after, values, expected)
        compared += 1
    if not compared:
        return f"the program was not run to be compared with what it was: {failure}"
    sizes = "1 input" if compared == 1 else f"inputs of {compared} sizes"
    return f"run on {sizes}, the program gives the same outputs as before, bit for bit"


def require_equal(program: ExportedProgram, read: ExportedProgram) -> None:
    """Check that what was read back from a file is the program that was written.

    Raises:
        VerificationError: a tensor, or an output, is another.
    """
    for kind, tensors, others in (
        ("tensor", program.state_dict, read.state_dict),
        ("constant", program.constants, read.constants),
    ):
        if tensors.keys() != others.keys():
            raise VerificationError(f"the written program has other {kind}s; nothing was kept")
        for key, tensor in tensors.items():
            if isinstance(tensor, Tensor) and not _same(tensor, others[key]):
                raise VerificationError(f"the {kind} {key!r} of the written program differs; nothing was kept")
    prove(program, read)


def _require_same(after: Runner, values: list[Any], expected: list[Any]) -> None:
    try:
        outputs = after.run(_copies(values))
    except Exception as error:
        raise VerificationError(f"the converted program fails where it did not: {described(error)}") from error
    if len(outputs) != len(expected) or not all(map(_same, outputs, expected)):
        raise VerificationError("the converted program gives other outputs than it did; please report it")


def _copies(values: list[Any]) -> list[Any]:
    return [value.clone() if isinstance(value, Tensor) else value for value in values]


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and bool(a == b or (a != a and b != b))
    if a.layout != torch.strided or b.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return same_bits(a, b)
