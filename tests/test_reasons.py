"""Reasons as values."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from string import Formatter

import pytest

from wnconvert.reasons import Reason, Why


@pytest.mark.parametrize(
    "passed_on",
    [copy.copy, copy.deepcopy, *(lambda reason, p=p: pickle.loads(pickle.dumps(reason, p)) for p in range(6))],
)
def test_a_reason_stays_one(passed_on: Callable[[Reason], Reason]) -> None:
    reason = passed_on(Why.SHARED_MEMORY(other="a{b}"))
    assert type(reason) is Reason
    assert reason == "it shares memory with 'a{b}', which is another tensor"
    assert reason.why is Why.SHARED_MEMORY


def test_a_reason_is_text_for_json_and_for_people() -> None:
    assert json.dumps([Why.ALREADY_PLAIN()]) == '["already a plain weight"]'
    assert f"{Why.NOT_CHOSEN()}" == "not chosen by the predicate"


@pytest.mark.parametrize("why", Why)
def test_every_reason_is_a_lower_case_phrase(why: Why) -> None:
    names = {name for _, name, _, _ in Formatter().parse(why.value) if name}
    text = why(**dict.fromkeys(names, "x"))
    assert text[:1].islower()
    assert not text.endswith(".")
    assert text.why is why


def test_what_is_in_the_wanted_state_already() -> None:
    assert {why for why in Why if why.already} == {why for why in Why if why.name.startswith("ALREADY_")}
