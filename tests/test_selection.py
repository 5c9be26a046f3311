"""Which weights are chosen, and which dim is kept."""

from __future__ import annotations

import pytest
import torch

from wnconvert.errors import OptionError
from wnconvert.selection import Selection, WeightedOp, kept_dims

WEIGHT = WeightedOp("decoder.conv.weight", ("conv1d",), (4, 3, 2), torch.float32, (0,), ("tied.weight",))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(include=("decoder.*",)),
        Selection(include=("decoder.conv",)),
        Selection(include=("nothing", "*.conv.weight")),
        Selection(include=("tied",)),
        Selection(exclude=("encoder.*",)),
        Selection(ops=("linear", "conv1d")),
        Selection(min_size=24),
        Selection(predicate=lambda weight: weight.shape[0] == 4),
    ],
)
def test_chosen(selection: Selection) -> None:
    assert selection.reason_against(WEIGHT) is None


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Selection(include=("encoder.*",)), "not included by 'encoder.*'"),
        (Selection(include=("Decoder.*",)), "not included by 'Decoder.*'"),
        (Selection(exclude=("nothing", "tied")), "excluded by 'nothing', 'tied'"),
        (Selection(include=("decoder.*",), exclude=("*.conv",)), "excluded by '*.conv'"),
        (Selection(ops=("linear",)), "not among the ops linear"),
        (Selection(min_size=25), "has 24 elements, fewer than 25"),
        (Selection(predicate=lambda weight: False), "not chosen by the predicate"),
    ],
)
def test_not_chosen_and_why(selection: Selection, reason: str) -> None:
    assert selection.reason_against(WEIGHT) == reason


def test_the_predicate_has_the_last_word_only() -> None:
    asked: list[WeightedOp] = []
    Selection(min_size=1000, predicate=lambda weight: bool(asked.append(weight))).reason_against(WEIGHT)
    assert asked == []


def test_ops_do_not_matter_where_only_a_file_was_seen() -> None:
    assert Selection(ops=("linear",)).reason_against(WeightedOp("weight", (), (2, 2), torch.float32)) is None


@pytest.mark.parametrize(("dim", "kept"), [(0, (0,)), (2, (2,)), (None, ()), (-1, ()), ("output", (0,))], ids=str)
def test_kept_dims_as_torch_means_them(dim: object, kept: tuple[int, ...]) -> None:
    assert kept_dims(dim, WEIGHT) == kept  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "words"), [(3, "no dim 3"), (-2, "no dim -2"), ("last", "'last'"), (True, "True")])
def test_what_is_no_dim_is_an_error(dim: object, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        kept_dims(dim, WEIGHT)  # type: ignore[arg-type]


def test_an_output_dim_must_be_known() -> None:
    with pytest.raises(OptionError, match="give a number"):
        kept_dims("output", WeightedOp("weight", (), (2, 2), torch.float32))


def test_a_scalar_keeps_nothing() -> None:
    assert kept_dims(0, WeightedOp("weight", (), (), torch.float32)) == ()


def test_names_alone_may_say_that_a_weight_is_not_chosen() -> None:
    assert Selection(exclude=("a.*",)).reason_against_names(("b.weight", "a.b.weight")) == "excluded by 'a.*'"
    assert Selection(include=("a",)).reason_against_names(("b.weight",)) == "not included by 'a'"
    assert Selection(include=("b",), min_size=9).reason_against_names(("b.weight",)) is None
