"""Names, discovery and the entry points of other distributions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from wnconvert import registry
from wnconvert.registry import Registry
from wnconvert.scheme import SCHEMES, Parts, Scheme, WeightSpec


class Thing:
    """What a registry of this file holds."""


@pytest.fixture
def things() -> Registry[Thing]:
    found: Registry[Thing] = Registry("thing", "wnconvert.schemes", "wnconvert.things")
    found.register("first")(Thing)
    return found


def test_a_registered_class_is_found_by_its_name(things: Registry[Thing]) -> None:
    assert things.get("first") is Thing
    assert list(things) == ["first"]


def test_an_unknown_name_is_an_error_with_the_nearest_one(things: Registry[Thing]) -> None:
    with pytest.raises(
        wnconvert.UnknownNameError, match=r"unknown thing 'frist'; did you mean 'first'\? \(known: first\)"
    ):
        things.get("frist")


def test_a_name_is_given_once(things: Registry[Thing]) -> None:
    things.register("first")(Thing)
    with pytest.raises(ValueError, match="'first' is already registered"):
        things.register("first")(type("Other", (Thing,), {}))


@dataclass(frozen=True)
class Halved(Scheme):
    """A scheme of another distribution: half of the weight is stored, twice."""

    name = "halved"
    variants: ClassVar = {("left", "right"): {}}
    direction = "left"
    formula = "w = left + right"
    reference = "none"

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        return {"left": weight / 2, "right": weight / 2}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        return parts["left"] + parts["right"]


@pytest.fixture
def foreign_scheme(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("halved", f"{__name__}:Halved", "wnconvert.schemes")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Halved)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "wnconvert.schemes" else [])
    fresh: Registry[Scheme] = Registry("scheme", "wnconvert.schemes", "wnconvert.schemes")
    fresh._classes = dict(SCHEMES._classes)
    for module in ("scheme", "weights.expressions"):
        monkeypatch.setattr(f"wnconvert.{module}.SCHEMES", fresh)
    yield
    from wnconvert.weights import expressions

    expressions._part_names.cache_clear()
    expressions._identify_parts.cache_clear()


@pytest.mark.usefixtures("foreign_scheme")
def test_a_scheme_of_another_distribution_is_applied_and_folded_by_name() -> None:
    from wnconvert.weights import expressions

    expressions._part_names.cache_clear()
    expressions._identify_parts.cache_clear()
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    converted, report = wnconvert.apply(model, "halved")
    assert list(converted.state_dict()) == ["weight_left", "weight_right", "bias"]
    assert torch.equal(converted(x), model(x))
    folded, report = wnconvert.fold(converted)
    assert [(entry.fqn, entry.scheme) for entry in report.converted] == [("weight", "halved")]
    assert list(folded.state_dict()) == ["weight", "bias"]
