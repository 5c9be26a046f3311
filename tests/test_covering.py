from __future__ import annotations

import itertools

import pytest

from tests.covering import pairwise

AXES = [[range(2), "abc", range(5)], [range(3), "ab"], [range(4)] * 4, [range(12), "xy", range(11), range(4)]]


def pairs(cases):
    return {pair for case in cases for pair in itertools.combinations(enumerate(case), 2)}


@pytest.mark.parametrize("axes", AXES)
def test_any_two_values_meet(axes):
    cases = pairwise(*axes)
    product = list(itertools.product(*axes))
    assert set(cases) <= set(product)
    assert len(set(cases)) == len(cases)
    assert pairs(cases) == pairs(product)
    assert cases == sorted(cases)


def test_they_are_few():
    sizes = [(len(pairwise(*axes)), len(list(itertools.product(*axes)))) for axes in AXES]
    assert [few < many for few, many in sizes] == [True, False, True, True]  # of two axes all pairs are the product
    assert sizes[-1][0] < 1.5 * 12 * 11


def test_what_cannot_be_is_in_no_case():
    cases = pairwise(range(3), range(3), range(3), allowed=lambda a, b, c: not a == b == 1)
    assert not any(a == b == 1 for a, b, _ in cases)
    assert pairs(cases) == pairs(case for case in itertools.product(*[range(3)] * 3) if not case[0] == case[1] == 1)
