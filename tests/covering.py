"""Few cases that stand for many: every two circumstances meet, though not every three."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any


def pairwise(*axes: Iterable[Any], allowed: Callable[..., bool] = lambda *case: True) -> list[tuple[Any, ...]]:
    """Choose cases such that any two values of two axes are together in one of them.

    Where code treats its circumstances one by one, or two at a time, a fault shows itself in these cases as in the
    product of the axes, which has many times as many.

    Args:
        axes: the values of each circumstance.
        allowed: whether a combination is possible. What no possible one has together is in no case.

    Returns:
        the cases, in the order in which they stand in the product.
    """
    values = [list(axis) for axis in axes]
    product = [
        case
        for case in itertools.product(*(range(len(axis)) for axis in values))
        if allowed(*(axis[index] for axis, index in zip(values, case, strict=True)))
    ]
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in product}
    missing = set().union(*pairs.values())
    chosen = set()
    # greedily: what has the most that is missing, and less and less of it
    for least in range(len(values) * (len(values) - 1) // 2, 0, -1):
        for case in product:
            if len(pairs[case] & missing) >= least:
                chosen.add(case)
                missing -= pairs[case]
    return [tuple(axis[index] for axis, index in zip(values, case, strict=True)) for case in sorted(chosen)]
