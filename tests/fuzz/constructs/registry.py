"""What a construct is, and where it is filed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

#: every construct maps a tensor of this shape to one of the same shape
BATCH, WIDTH = 3, 8

#: arguments of one call
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Construct:
    """One thing that a forward may do.

    Attributes:
        name: its name, that of its class.
        hazard: what a conversion could lose of it; `ORDINARY` if nothing that is known.
        build: makes a module; its random numbers are drawn then.
        calls: the calls that it must survive, made from a tensor. A container makes the first one.
        plain: its output is one tensor of the shape of its input, so that it can stand anywhere.
        copies: `copy.deepcopy` makes a model that does the same, and that is independent.
    """

    name: str
    hazard: str
    build: Callable[[], nn.Module]
    calls: tuple[Callable[[Tensor], Call], ...]
    plain: bool
    copies: bool


ORDINARY = "ordinary"

CONSTRUCTS: dict[str, Construct] = {}


def call_with_x(x: Tensor) -> Call:
    """The call of nearly every construct."""
    return (x,), {}


def construct(
    hazard: str,
    *,
    calls: tuple[Callable[[Tensor], Call], ...] = (call_with_x,),
    plain: bool = True,
    copies: bool = True,
) -> Callable[[Any], Any]:
    """File a module class, or a function that makes a module, as a construct."""

    def file(build: Any) -> Any:
        if build.__name__ in CONSTRUCTS:
            raise ValueError(f"two constructs are called {build.__name__}")
        CONSTRUCTS[build.__name__] = Construct(build.__name__, hazard, build, calls, plain, copies)
        return build

    return file


class WithLinear(nn.Module):
    """Most constructs have one weight, so that there is something to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
