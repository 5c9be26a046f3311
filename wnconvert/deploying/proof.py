"""An artifact and the model that it was made of, run side by side on inputs of several sizes, before it appears.

Another engine rounds at other places. So outputs must have the same bits, or be close as `torch.testing.assert_close`
understands it, or about as near to what the model computes in float64 as the model itself is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from wnconvert.deploying.inputs import arguments, tensors_in
from wnconvert.deploying.target import Run
from wnconvert.errors import VerificationError, described
from wnconvert.exported.holding import hold
from wnconvert.exported.running import user_inputs
from wnconvert.fusing.measuring import FARTHER, distance, in_double
from wnconvert.verification import same_bits


@dataclass(frozen=True)
class Compared:
    """How the outputs of an artifact compare with those of the model.

    Attributes:
        sizes: on inputs of how many sizes; 0 where they could not be compared.
        same_bits: whether all were the same to the bit.
        max_abs: the largest absolute difference of an element.
        error: ``norm(y - exact) / norm(exact)`` of the artifact, ``exact`` being what the model computes in float64; it
            is measured only where outputs are not close.
        model_error: the same of the model.
        reason: why they could not be compared; empty where they were.
    """

    sizes: int = 0
    same_bits: bool = False
    max_abs: float = 0.0
    error: float | None = None
    model_error: float | None = None
    reason: str = ""


class Reference:
    """The model as it was.

    Args:
        model: a module in evaluation mode, or a program.
        program: what was exported, whose inputs are those of the model.
    """

    def __init__(self, model: nn.Module | ExportedProgram, program: ExportedProgram) -> None:
        self._program = program
        self._outputs: list[int] | None = None
        self._module: nn.Module
        if isinstance(model, ExportedProgram):
            # without what `module()` adds, which names dtypes
            self._module = held = hold(model).module
            held.recompile()
            specs = model.graph_signature.output_specs
            self._outputs = [index for index, spec in enumerate(specs) if spec.kind is OutputKind.USER_OUTPUT]
        else:
            self._module = model

    def run(self, values: Sequence[Any], seed: int = 0) -> list[Tensor]:
        """Return the tensors that the model gives."""
        return self._run(self._module, values, seed)

    def exact(self, values: Sequence[Any]) -> list[Tensor]:
        """Return the same, computed in float64."""
        double = [each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in values]
        return self._run(in_double(self._module), double, 0)

    @torch.no_grad()
    def _run(self, module: nn.Module, values: Sequence[Any], seed: int) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self._outputs is None:
                args, kwargs = arguments(self._program, copies(values))
                return tensors_in(module(*args, **kwargs))
            results = module(*copies(values))
            return tensors_in([results[index] for index in self._outputs])


def prove(reference: Reference, run: Run, program: ExportedProgram, *, seeded: bool) -> Compared:
    """Run both on the same inputs of several sizes.

    A size at which the model itself fails says nothing, nor one that the program guards against.

    Args:
        reference: the model.
        run: what runs the artifact.
        program: what was exported.
        seeded: whether the artifact draws the random numbers that the model draws.

    Raises:
        VerificationError: the artifact fails, or an output is further away than rounding explains.
    """
    compared, failure = Compared(), "it has no example inputs, and none could be made"
    for values in user_inputs(program):
        try:
            expected = reference.run(values)
            if not seeded and not _same(expected, reference.run(values, seed=1)):
                return Compared(reason="the model draws random numbers, and the artifact others")
        except Exception as error:  # noqa: BLE001 - it is the model's own code, which may want other inputs
            failure = described(error)
            continue
        try:
            found = _outputs(run, values)
        except VerificationError as error:
            if not _is_refused(program, values):
                raise
            failure = str(error)
            continue
        compared = _with(compared, reference, values, expected, found)
    return compared if compared.sizes else Compared(reason=failure)


def _outputs(run: Run, values: Sequence[Any]) -> list[Tensor]:
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return run(copies(values))
    except VerificationError:
        raise
    except Exception as error:
        raise VerificationError(f"what was written does not run: {described(error)}; nothing was kept") from error


def _is_refused(program: ExportedProgram, values: Sequence[Any]) -> bool:
    """Return whether a program does not take inputs of such sizes: it has guards against some that the model takes."""
    args, kwargs = arguments(program, copies(values))
    try:
        with torch.no_grad():
            program.module()(*args, **kwargs)
    except Exception:  # noqa: BLE001 - a guard may raise anything
        return True
    return False


def _with(
    sofar: Compared, reference: Reference, values: Sequence[Any], expected: list[Tensor], found: list[Tensor]
) -> Compared:
    """Return a comparison with one more size in it."""
    if [_kind(each) for each in expected] != [_kind(each) for each in found]:
        kinds = f"{[_kind(each) for each in found]}, and the model {[_kind(each) for each in expected]}"
        raise VerificationError(f"what was written gives outputs of other shapes: {kinds}; nothing was kept")
    if _same(expected, found):
        return Compared(sofar.sizes + 1, sofar.same_bits or not sofar.sizes, *_rest(sofar))
    most = max(_apart(a, b) for a, b in zip(expected, found, strict=True))
    error, own = sofar.error, sofar.model_error
    if not _close(expected, found):
        exact = reference.exact(values)
        error, own = (_error(each, exact) for each in (found, expected))
        rounding = max((torch.finfo(x.dtype).eps for x in expected if x.is_floating_point()), default=0.0)
        if not error <= FARTHER * max(own, rounding):
            raise VerificationError(
                f"what was written is off by {error:.2g}, the model by {own:.2g}; nothing was kept; please report it"
            )
    return Compared(sofar.sizes + 1, False, max(most, sofar.max_abs), error, own)


def _rest(compared: Compared) -> tuple[float, float | None, float | None]:
    return compared.max_abs, compared.error, compared.model_error


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(same_bits, first, second))


def _close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    try:
        torch.testing.assert_close(list(second), list(first), equal_nan=True)
    except AssertionError:
        return False
    return True


def _apart(a: Tensor, b: Tensor) -> float:
    wide = torch.complex128 if a.is_complex() else torch.float64
    return float((a.to(wide) - b.to(wide)).abs().nan_to_num(0.0).max()) if a.numel() else 0.0


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    pairs = [(a, b) for a, b in zip(found, exact, strict=True) if a.is_floating_point()]
    return distance([a for a, _ in pairs], [b for _, b in pairs])


def copies(values: Sequence[Any]) -> list[Any]:
    """Return inputs that a run may write to."""
    return [each.clone() if isinstance(each, Tensor) else each for each in values]
