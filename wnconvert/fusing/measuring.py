"""How far two models are from the exact result: computed in float64, by the one that was there first."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.node import map_arg

from wnconvert.errors import OptionError, VerificationError, described
from wnconvert.graph.copying import clone
from wnconvert.report import Measured
from wnconvert.torch_private import pytree

#: so many times farther from the exact result than the model as it was, or than rounding, a fused model may be
FARTHER = 30


@torch.no_grad()
def measure(before: nn.Module, after: nn.Module, inputs: tuple[Any, ...], *, origin: str = "given") -> Measured:
    """Return how far both are from what ``before`` computes in float64, in evaluation mode; copies of them run.

    The error of a model is ``norm(y - exact) / norm(exact)``, over all floating outputs together.

    Args:
        before: a model, or its graph.
        after: what was made of it.
        inputs: positional arguments of a call.
        origin: where the inputs are from.

    Raises:
        OptionError: ``before`` does not run on these inputs, or its outputs have no values.
        VerificationError: ``after`` does not, or gives outputs of other shapes.
    """
    exact = _outputs(in_double(before), _doubled(inputs))
    own = _outputs(clone(before), inputs)
    if any(x.is_meta for x in own):
        raise OptionError(
            "what the model gives has no values (it is on the meta device), so there is nothing to measure"
        )
    try:
        made = _outputs(clone(after), inputs)
    except OptionError as error:
        raise VerificationError(
            f"the fused model does not run, so it was not kept: {error}; please report it"
        ) from error
    kinds_of = [[(x.shape, x.dtype) for x in outputs] for outputs in (own, made)]
    if kinds_of[0] != kinds_of[1]:
        raise VerificationError(f"the fused model has outputs {kinds_of[1]}, the model as it was {kinds_of[0]}")
    unfused, fused = distance(own, exact), distance(made, exact)
    kinds = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in before.parameters() if x.is_floating_point())
    return Measured(unfused, fused, " and ".join(kinds) or "float32", origin)


def require_near(measured: Measured) -> Measured:
    """Return ``measured``, if the fused model is about as near to the exact result as the unfused one.

    Raises:
        VerificationError: it is not.
    """
    rounding = max(torch.finfo(getattr(torch, name)).eps for name in measured.dtype.split(" and "))
    if not measured.fused <= FARTHER * max(measured.unfused, rounding):
        raise VerificationError(
            f"the fused model is off by {measured.fused:.2g}, the model as it was by {measured.unfused:.2g}, so it was "
            "not kept; please report it, with the model"
        )
    return measured


def in_double(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that computes in float64, also where its graph names another dtype."""
    copied = clone(model).double()
    if isinstance(copied, GraphModule):
        for node in copied.graph.nodes:
            if node.op in ("call_function", "call_method"):
                node.args, node.kwargs = _wide(node.args), _wide(node.kwargs)
                if node.target in ("float", "half", "bfloat16"):
                    node.target = "double"
        copied.recompile()
    return copied


def _wide(args: Any) -> Any:
    """Return arguments with float64 for every floating dtype."""
    args = map_arg(args, lambda node: node)  # plain tuples, lists and dicts
    return pytree.tree_map(
        lambda value: torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value, args
    )


def _doubled(inputs: tuple[Any, ...]) -> Any:
    return pytree.tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    try:
        made = model.eval()(*copy.deepcopy(inputs))
    except Exception as error:
        raise OptionError(f"the model does not run on the example inputs: {described(error)}") from error
    return list(_floating(made))


def _floating(made: Any) -> Iterator[Tensor]:
    leaves = pytree.tree_leaves(dict(made) if isinstance(made, dict) else made)
    return (x for x in leaves if isinstance(x, Tensor) and x.is_floating_point())


def distance(made: list[Tensor], exact: list[Tensor]) -> float:
    """Return ``norm(made - exact) / norm(exact)``, over all tensors together."""
    difference = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(made, exact, strict=True))
    size = sum(float(b.double().square().sum()) for b in exact)
    return (difference / size) ** 0.5 if size else difference**0.5
