"""Small models to trace, and where those are filed that do something a graph would lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.tracing.hazards import Hazard

X = torch.linspace(-1, 1, 12).view(3, 4)


@dataclass(frozen=True)
class Case:
    """A module with one hazard.

    Attributes:
        hazard: what tracing has to see.
        build: makes the module.
        calls: positional arguments that show the difference.
        nested: inside of another module it is one node; else that module suffers, or there is no hazard.
        wrong: with the observation switched off the graph is another function; else there is none, or it is right.
        also: hazards that have to be switched off too, because they see it in another way.
    """

    hazard: Hazard
    build: Callable[[], nn.Module]
    calls: tuple[tuple[Any, ...], ...] = ((X,),)
    nested: bool = True
    wrong: bool = True
    also: tuple[Hazard, ...] = ()


CASES: dict[str, Case] = {}


class Base(nn.Module):
    """A linear layer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.prepare()

    def prepare(self) -> None:
        """Set what the forward needs."""


def case(hazard: Hazard, name: str, prepare: Callable[[Any], None] = lambda self: None, **options: Any) -> Any:
    """Take a forward for a module with a hazard."""

    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        kind = type(name.title().replace(" ", ""), (Base,), {"forward": forward, "prepare": prepare})
        CASES[name] = Case(hazard, kind, **options)
        return forward

    return register


class Deciding(nn.Module):
    """Its own forward takes a decision on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() < 1e9 else x


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.layers = nn.ModuleList(layers)
        self.after = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for layer in self.layers:
            x = layer(x)
        return self.after(x)


def model_of(forward, prepare=lambda self: None):
    """Return a class with a linear layer ``fc``, a buffer ``mean``, and a forward."""
    return type("Model", (Base,), {"forward": forward, "prepare": prepare})
