"""Patterns from a file match as Python's engine matches them, but in bounded time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from tests.counting import at_most
from wnconvert.checkpoint.layouts._patterns import matches
from wnconvert.errors import CheckpointError

ATOMS = st.sampled_from(["a", "b", ".", r"\.", r"\d", r"\w", "[ab]", "[^a.]", "0", "^", "$"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "{,1}", "*?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=5,
)


@given(PATTERNS, st.text("ab.0", max_size=6))
def test_it_matches_what_the_engine_matches(pattern: str, name: str) -> None:
    # the call of peft/utils/other.py, get_pattern_key
    assert matches(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name))


def test_names_of_modules_match() -> None:
    assert matches("q_proj", "model.layers.3.self_attn.q_proj")
    assert not matches("proj", "model.layers.3.self_attn.q_proj")
    assert matches(r"layers\.([0-3]|1\d)\..*\.(q|v)_proj", "model.layers.12.self_attn.v_proj")
    assert matches("^model.layers.0.q$", "model.layers.0.q")
    assert not matches("^layers.0.q", "model.layers.0.q")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+b", ".*.*.*.*.*.*.*.*b", "a?" * 60 + "a" * 60 + "b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    with at_most(50_000):  # Python's engine makes one, and 2 ** 60 steps in it
        assert not matches(pattern, "a" * 60)


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", r"(a)\1", "(a", "a)", "*a", "a**", "[a", "a{1000000}", "a{5,2}", "(" * 9 + "a" + ")" * 9, "a" * 2000],
)
def test_what_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="the pattern"):
        matches(pattern, "a")
