"""Every scheme keeps the strides of a weight."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.contract import ALL, each
from tests.covering import pairwise
from tests.helpers import (
    DTYPES,
    assert_close_in,
    assert_same_bits,
    compose_all,
    fold,
    label,
    nodes_of,
    sample,
    split_all,
    traced,
    with_zeros,
)
from wnconvert.scheme import WeightSpec

LAYOUTS = {
    "channels_last": lambda dtype: sample(4, 3, 2, 5, dtype=dtype).contiguous(memory_format=torch.channels_last),
    "channels_last_3d": lambda dtype: sample(4, 3, 2, 5, 2, dtype=dtype).contiguous(
        memory_format=torch.channels_last_3d
    ),
    "transposed": lambda dtype: sample(6, 4, dtype=dtype).t(),
    "strided": lambda dtype: sample(4, 12, dtype=dtype)[:, ::2],
    "expanded": lambda dtype: sample(4, 1, dtype=dtype).expand(4, 6),
}


@pytest.mark.parametrize(("scheme", "layout", "dtype"), pairwise(ALL, LAYOUTS, DTYPES), ids=label)
def test_memory_formats(scheme, layout, dtype):
    weight = LAYOUTS[layout](dtype)
    for kept in ((0,), (1,), ()):
        composed = fold(scheme, weight, kept)
        if scheme.preserving:
            assert_same_bits(composed, weight)
            assert composed.stride() == weight.clone().stride()
        else:
            plain = fold(scheme, weight.contiguous(), kept)
            # a sum over other strides may be added up in another order
            assert_close_in(dtype, composed, plain, roundings=8)


def in_memory_order(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same tensor, with the given dims from the slowest to the fastest in memory."""
    inverse = [order.index(dim) for dim in range(weight.dim())]
    return weight.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


#: weights whose strides do not follow from the order of their elements in memory
AMBIGUOUS = {
    "depthwise": lambda dtype: sample(6, 1, 3, 3, dtype=dtype).to(memory_format=torch.channels_last),
    "1x1": lambda dtype: sample(6, 4, 1, 1, dtype=dtype).to(memory_format=torch.channels_last),
    "one channel": lambda dtype: sample(1, 1, 3, 3, dtype=dtype).to(memory_format=torch.channels_last),
    "depthwise 3d": lambda dtype: sample(6, 1, 2, 3, 3, dtype=dtype).to(memory_format=torch.channels_last_3d),
    "a column, transposed": lambda dtype: sample(1, 5, dtype=dtype).t(),
    "a row of a matrix": lambda dtype: torch.empty_strided((1, 5), (77, 1), dtype=dtype).copy_(sample(1, 5)),
}


@pytest.mark.parametrize(("scheme", "layout", "dtype"), pairwise(ALL, AMBIGUOUS, DTYPES), ids=label)
def test_ambiguous_strides_are_kept(scheme, layout, dtype):
    weight = AMBIGUOUS[layout](dtype)
    assert weight.is_contiguous()
    assert weight.stride() != torch.empty(weight.shape).stride()
    meta = torch.empty_strided(weight.shape, weight.stride(), dtype=dtype, device="meta")
    for kept in ((0,), (1,), (), tuple(range(weight.dim()))):
        parts, specs = split_all(scheme, [weight], kept)
        composed = compose_all(scheme, parts, specs)[0]
        assert composed.stride() == parts[0][scheme.direction].stride() == weight.stride()
        assert fold(scheme, meta, kept).stride() == weight.stride()
        if scheme.preserving:
            assert_same_bits(composed, weight)
            zeros = with_zeros(weight, kept)
            assert_same_bits(fold(scheme, zeros, kept), zeros)
            assert fold(scheme, zeros, kept).stride() == weight.stride()


@each
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 3, 2), (4, 3, 1), (1, 4, 3), (4, 3, 2, 2), (4, 3, 1, 2)])
def test_any_order_in_memory_is_kept(scheme, shape):
    for order in itertools.permutations(range(len(shape))):
        weight = in_memory_order(sample(*shape), order)
        for kept in ((0,), (1,), (), tuple(range(len(shape)))):
            assert fold(scheme, weight, kept).stride() == weight.stride()


@each
def test_a_weight_in_the_default_memory_format_costs_no_node_for_its_strides(scheme):
    for shape in ((4, 6), (4, 3, 3, 3), (6, 1, 3, 3), (6, 4, 1, 1), (1, 1), (1, 5), (5, 1)):
        spec = WeightSpec.of(sample(*shape))
        assert not spec.ambiguous
        parts, specs = split_all(scheme, [sample(*shape)])
        graph_module = traced(lambda proxies, specs=specs: compose_all(scheme, proxies, specs), parts)
        assert torch.slice_scatter not in {node.target for node in nodes_of(graph_module)}


@each
def test_values_survive_a_change_of_the_memory_format(scheme):
    for shape in ((6, 4, 3, 3), (6, 1, 3, 3), (6, 4, 1, 1), (6, 4, 3, 1)):
        for before, after in itertools.permutations((torch.contiguous_format, torch.channels_last)):
            parts, specs = split_all(scheme, [sample(*shape).to(memory_format=before)])
            moved = [{part: x.to(memory_format=after) if x.dim() == 4 else x for part, x in parts[0].items()}]
            torch.testing.assert_close(compose_all(scheme, moved, specs)[0], compose_all(scheme, parts, specs)[0])
