from __future__ import annotations

import math
import sys

import pytest

from tests.counting import TooMuchWorkError, at_most


def test_what_makes_few_calls_is_let_through():
    with at_most(10):
        assert math.isqrt(9) == 3
    assert sys.getprofile() is None


@pytest.mark.parametrize("function", [math.sqrt, lambda number: number])
def test_what_makes_more_is_stopped(function):
    made = []

    def work():
        while True:
            made.append(function(len(made)))

    with pytest.raises(TooMuchWorkError, match="more than 20 calls"), at_most(20):
        work()
    assert len(made) < 20
    assert sys.getprofile() is None
