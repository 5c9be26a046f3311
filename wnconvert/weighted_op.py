"""What a weighted op is to those who add one: what calls it, and which of its arguments is the weight.

The ops of torch are in `wnconvert.weights.ops`. Here other code tells of its own: custom ops (`torch.library`), and
functions of Python, of which a call becomes one node of a graph where a method calls them by their name.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, ClassVar, TypeVar

from torch.fx import Node

from wnconvert.errors import OptionError
from wnconvert.registry import Registry

T = TypeVar("T", bound="type[WeightedOpRule]")


class WeightedOpRule:
    """A weighted op that wnconvert does not know of itself.

    Derive from it, and decorate the class with `register_weighted_op` or name it as an entry point of the group
    ``wnconvert.ops``::

        @wnconvert.register_weighted_op
        class GatedLinear(wnconvert.WeightedOpRule):
            name = "gated_linear"
            targets = (torch.ops.mine.gated_linear,)
            weight = (1, "weight")
            output_dims = (0,)

    Attributes:
        name: what reports call it.
        targets: what calls it: functions, custom ops with all their overloads or one of these, and the names of tensor
            methods. A target that wnconvert knows itself is then taken from here.
        weight: the place of the weight among the arguments, and its name.
        output_dims: the dims of the weight that index output channels; a negative one counts from the last.
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[Any, ...]]
    weight: ClassVar[tuple[int, str]]
    output_dims: ClassVar[tuple[int, ...]] = (0,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        missing = [each for each in ("name", "targets", "weight") if not hasattr(cls, each)]
        if missing:
            raise OptionError(f"weighted op {cls.__name__!r} has no {', '.join(missing)}; set them in its class")
        if not isinstance(cls.targets, tuple) or not all(
            callable(each) or isinstance(each, str) for each in cls.targets
        ):
            raise OptionError(f"targets of weighted op {cls.name!r} are {cls.targets!r}; give a tuple of functions")
        if not isinstance(cls.weight, tuple) or tuple(map(type, cls.weight)) != (int, str):
            raise OptionError(f"weight of weighted op {cls.name!r} is {cls.weight!r}; give its index and its name")

    @classmethod
    def output_dims_of(cls, call: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the output dims of a weight in one call, None if no dim of it indexes output channels.

        Args:
            call: the node, for ops where other arguments decide.
            shape: the weight's shape.
        """
        return tuple(dim % len(shape) for dim in cls.output_dims if -len(shape) <= dim < len(shape))


#: every weighted op of other code, by name; torch's are rows of a table instead
WEIGHTED_OPS: Registry[type[WeightedOpRule]] = Registry("weighted op", None, "wnconvert.ops", WeightedOpRule)


def register_weighted_op(cls: T) -> T:
    """File a weighted op under its name; a class decorator."""
    WEIGHTED_OPS.register(cls.name)(cls)
    return cls


def registered() -> tuple[type[WeightedOpRule], ...]:
    """Return every weighted op of other code that is known now."""
    return tuple(WEIGHTED_OPS.get(name) for name in WEIGHTED_OPS)


def registered_functions() -> frozenset[FunctionType]:
    """Return those of their targets that are functions of Python."""
    return frozenset(each for op in registered() for each in op.targets if isinstance(each, FunctionType))
