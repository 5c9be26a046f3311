"""Which optimizers are stale once some state dicts of a file are converted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wnconvert.checkpoint.content.optimizers import find_optimizers, missing, stale
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts


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
        ([(7,)], True),  # of none
        ([(5,), (5,)], True),  # of none, for there is one such shape
    ],
)
def test_shapes_tell_whose_parameters_an_optimizer_has(shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert stale_in(content(optim=optimizer(*shapes))) == (["optim"] if expected else [])


def test_in_a_list_one_takes_the_others_with_it() -> None:
    valid, old = ((2, 3), (5,)), ((2, 3), (2, 3))
    tree = content(optims=[optimizer(*valid), optimizer(*old)], others=[optimizer(*valid)], by_name=optimizer(*valid))
    assert stale_in(tree) == ["optims.0", "optims.1"]
    assert stale_in(content(optims={"valid": optimizer(*valid), "old": optimizer(*old)})) == ["optims.old"]


def test_what_was_left_out_is_told_by_its_place() -> None:
    before = content(optims=[optimizer((2, 3)), optimizer((5,))], optim=optimizer((5,)))
    after = {**before, "optims": before["optims"][:1]}
    assert [str(each) for each in find_optimizers(before)] == ["optims.0", "optims.1", "optim"]
    assert [str(each) for each in missing(before, after)] == ["optims.1"]
