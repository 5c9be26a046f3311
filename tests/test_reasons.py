"""Reasons as values."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

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
    assert f"{Why.NOT_CHOSEN(chooser='the predicate')}" == "not chosen by the predicate"


@pytest.mark.parametrize(("why", "facts"), [(why, facts) for why in Why for facts in why.texts])
def test_every_reason_is_a_lower_case_phrase(why: Why, facts: frozenset[str]) -> None:
    text = why(**dict.fromkeys(facts, "x"))
    assert text.removeprefix("'")[:1].islower()  # a name may come first
    assert not text.endswith(".")
    assert text.why is why


@pytest.mark.parametrize("why", Why)
def test_what_is_known_tells_the_texts_of_a_reason_apart(why: Why) -> None:
    assert len(why.texts) == (1 if isinstance(why.value, str) else len(why.value))


def test_what_is_in_the_wanted_state_already() -> None:
    assert {why for why in Why if why.already} == {why for why in Why if why.name.startswith("ALREADY_")}
