"""Which optimizers are stale once some state dicts of a file are converted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wnconvert.checkpoint.content.optimizer_reset import Change, Parameters
from wnconvert.checkpoint.content.optimizers import Became, find_optimizers, replacements, stale, treated
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.errors import CheckpointError


def optimizer(*shapes: tuple[int, ...]) -> dict[str, Any]:
    state = {
        index: {"step": torch.tensor(1.0), "exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)}
        for index, shape in enumerate(shapes)
    }
    return {"state": state, "param_groups": [{"params": list(state)}]}


def content(**more: Any) -> dict[str, Any]:
    """Two nets that differ in one shape."""
    one = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 3)}
    two = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(5)}
    return {"one": one, "two": two, **more}


def found_in(tree: dict[str, Any], *names: str) -> list[StateDict]:
    return [found for found in find_state_dicts(tree) if str(found) in names]


def stale_in(tree: dict[str, Any]) -> list[str]:
    return [str(each) for each in stale(tree, found_in(tree, "one"), found_in(tree, "two"))]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(2, 3), (2, 3)], True),
        ([(2, 3), (5,)], False),
        ([(2, 3)], True),  # of either
        ([(2, 3), (2, 3), (5,)], True),  # of both together, as one for several discriminators is
        ([(7,)], False),  # of a model that is not in the file
        ([(5,), (5,)], False),  # the same, for there is one such shape
    ],
)
def test_shapes_tell_whose_parameters_an_optimizer_has(shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert stale_in(content(optim=optimizer(*shapes))) == (["optim"] if expected else [])


def test_state_without_shapes_is_told_by_the_number_of_parameters() -> None:
    empty: dict[str, Any] = {"state": {}, "param_groups": [{"params": [0, 1]}]}
    factored = {0: {"row": torch.ones(2), "column": torch.ones(3)}, 1: {"row": torch.ones(2), "column": torch.ones(3)}}
    many = {"state": {}, "param_groups": [{"params": list(range(5))}]}
    tree = content(sgd=empty, adafactor={**empty, "state": factored}, larger=many)
    assert stale_in(tree) == ["sgd", "adafactor"]


def became(tree: dict[str, Any], wanted: Any = "drop") -> dict[str, str]:
    one, two = found_in(tree, "one"), found_in(tree, "two")
    known = [Parameters({**one[0].tensors}, [Change(("a.weight",), ("a.g", "a.v"))])]
    found = treated(tree, stale(tree, one, two), known, wanted)
    return {each.report.path: each.report.became for each in found}


def test_what_becomes_of_it_is_what_the_user_wants() -> None:
    tree = content(valid=optimizer((2, 3), (5,)), old=optimizer((2, 3), (2, 3)))
    assert became(tree) == {"old": "dropped"}
    assert became(tree, "reset") == {"old": "reset"}
    assert became(tree, "keep") == {"old": "kept"}


def test_in_a_list_one_that_is_stale_keeps_its_place() -> None:
    valid, old = ((2, 3), (5,)), ((2, 3), (2, 3))
    assert became(content(optims=[optimizer(*valid), optimizer(*old)])) == {"optims.1": "reset"}
    assert became(content(optims=[optimizer(*old), optimizer(*old)])) == {"optims.0": "dropped", "optims.1": "dropped"}


def test_in_a_list_one_that_cannot_be_reset_takes_the_others_with_it() -> None:
    part = optimizer((2, 3))  # of a.weight or b.weight
    assert became(content(optims=[optimizer((2, 3), (5,)), part])) == {"optims.1": "dropped", "optims.0": "dropped"}
    with pytest.raises(CheckpointError, match=r"'optims\.1' cannot be reset"):
        became(content(optims=[optimizer((2, 3), (5,)), part]), "reset")


def test_what_changed_is_told_by_its_place() -> None:
    before = content(optims=[optimizer((2, 3)), optimizer((5,))], optim=optimizer((5,)))
    after = {**before, "optims": before["optims"][:1], "optim": optimizer()}
    assert [str(each) for each in find_optimizers(before)] == ["optims.0", "optims.1", "optim"]
    new, left_out = replacements(before, after)
    assert left_out == {id(before["optims"][1])}
    assert new[id(before["optim"])] is after["optim"]


def test_a_report_says_what_became_of_it() -> None:
    old = optimizer((5,))
    assert [Became("a", old, new).report.became for new in (None, old, optimizer())] == ["dropped", "kept", "reset"]
