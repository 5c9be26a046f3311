"""What became of the weights of one state dict, and what splitting and composing them has in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from wnconvert.checkpoint.content.deferred import TINY, defer, small_beside
from wnconvert.checkpoint.content.difference import bits_equal
from wnconvert.checkpoint.content.keys import group_ties
from wnconvert.checkpoint.content.optimizer_reset import Change
from wnconvert.checkpoint.content.tree import StateDict
from wnconvert.checkpoint.layout import LAYOUTS, Group
from wnconvert.checkpoint.manifest import Applied, Folded
from wnconvert.errors import OptionError
from wnconvert.fitness import reason_against_values
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp, kept_dims

#: a dim, or the word for "what the scheme does where the user says nothing".
DimOrDefault: TypeAlias = Dim | Literal["default"]


#: the same, or the very dims that are kept.
KeptDims: TypeAlias = DimOrDefault | tuple[int, ...]


#: parts and weights already made, so that what is tied is made once and stays tied.
Memo: TypeAlias = dict[Hashable, Any]


@dataclass
class Outcome:
    """What became of one state dict.

    Attributes:
        entries: its new entries, in order.
        converted: one for each weight that was converted.
        skipped: one for each that was not.
        manifest: how each weight was split.
        folded: what each weight was that wnconvert had not split.
        notes: what the user should know besides.
        parameters: which parameters of the model are replaced by which, one for each weight.
        same_parameters: whether the parameters of the model keep shapes and order, by which optimizers tell them.
    """

    entries: dict[Any, Any]
    converted: list[Converted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    manifest: dict[str, Applied] = field(default_factory=dict)
    folded: dict[str, Folded] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parameters: list[Change] = field(default_factory=list)
    same_parameters: bool = False


def located(op: WeightedOp, state_dict: StateDict) -> WeightedOp:
    """Return ``op`` under its full names too, so that globs may give the path to the state dict or leave it out."""
    if not state_dict.path:
        return op
    return replace(op, aliases=(*op.aliases, *(state_dict.fqn(name) for name in (op.fqn, *op.aliases))))


def left_out(names: Sequence[str], state_dict: StateDict, selection: Selection) -> Reason | None:
    """Return why a weight of these names is not chosen; that counts before all that else may be said of it."""
    return selection.reason_against_names((*names, *map(state_dict.fqn, names)))


def without_wrapper(group: Group, state_dict: StateDict) -> tuple[str, dict[str, dict[str, Tensor]]]:
    """Return the name of a plain weight, and the entries of its module under the names outside of a layout's wrapper.

    Args:
        group: the keys of the weight.
        state_dict: where they are.
    """
    prefixes = LAYOUTS.get(group.layout)().unwrapped(group.stem) if group.layout else None
    if prefixes is None:
        return group.stem, {}
    old, new = prefixes
    inner = {key: new + key[len(old) :] for key in state_dict.under(old)}
    if any(name in state_dict.tensors for name in inner.values()):
        return group.stem, {}
    own = frozenset(group.keys.values())
    others = {key: {name: state_dict.tensors[key]} for key, name in inner.items() if key not in own}
    return new + group.stem[len(old) :], others


def tied_here(op: WeightedOp, tensors: Mapping[str, Tensor]) -> list[WeightedOp]:
    """Return ``op`` once for each tensor of its names: what a model ties, a file may hold several times."""
    if not op.aliases and op.fqn in tensors:
        return [op]
    present = {name: tensors[name] for name in (op.fqn, *op.aliases) if name in tensors}
    return [replace(op, fqn=tied.fqn, aliases=tied.aliases) for tied in group_ties(present)]


def unsplittable(op: WeightedOp, state_dict: StateDict) -> Reason | None:
    """Return why no scheme can split a weight of a state dict, or None."""
    weight = state_dict.tensors[op.fqn]
    if tuple(weight.shape) != op.shape:
        return Why.SHAPE(shape=tuple(weight.shape), expected=op.shape)
    reason = state_dict.overlaps.reason_against(weight) or reason_against_values(weight)
    return Why.NO_DATA() if reason is None and weight.is_meta else reason


def meant_dims(scheme: Scheme, dim: KeptDims, op: WeightedOp) -> tuple[int, ...]:
    """Return the kept dims that the user means.

    Raises:
        OptionError: the weight has no such dim, or none is known.
    """
    if isinstance(dim, tuple):
        if any(each >= len(op.shape) for each in dim):
            raise OptionError(f"has shape {op.shape}, and so no dims {dim} to keep")
        return dim
    meant: Any = scheme.default_dim if dim == "default" else dim
    if meant == "output" and op.output_dims is None:
        raise OptionError(
            "which dim is the output cannot be told without a model; give one (--model), or a dim (--dim 0)"
        )
    return kept_dims(meant, op)


def lean(weight: Tensor, parts: Mapping[str, Tensor], split: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parts of a weight in a form that holds little memory.

    Args:
        weight: the weight.
        parts: its parts.
        split: makes them anew.
    """

    def made(part: str, tensor: Tensor) -> Tensor:
        if tensor.nbytes <= TINY or small_beside(tensor, weight):
            return tensor
        if tensor.stride() == weight.stride() and bits_equal(tensor, weight):
            return defer(lambda: weight, tensor, [weight])
        return defer(lambda: split()[part], tensor, [weight], made=tensor)

    return {part: made(part, tensor) for part, tensor in parts.items()}


def as_entries(tensors: Mapping[str, Tensor], like: Tensor, scheme: Scheme | None = None) -> dict[str, Tensor]:
    """Return new entries of the kind of the old one: parameters where that was one, save for state."""
    if not isinstance(like, nn.Parameter):
        return dict(tensors)
    state = scheme.state if scheme else frozenset()
    return {
        name: tensor if name in state else nn.Parameter(tensor, requires_grad=like.requires_grad)
        for name, tensor in tensors.items()
    }
