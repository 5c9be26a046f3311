"""What a scheme or layout calls channelwise gives the same bits a few channels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.helpers import DTYPES, assert_same_bits, perturbed, sample, variant_id, variants
from wnconvert.checkpoint.layout import LAYOUTS, find_groups
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm

#: enough elements that torch shares the work between threads
SHAPES = [(5,), (7, 3), (16, 5000), (20, 40, 7), (15, 16, 3, 3), (1, 5), (6, 1, 1), (9, 2, 3, 2, 3)]
KEPT = [(0,), (1,), (), (0, 1)]
CUTS = [1, 3, 7]
#: the keys of each interface's weight norm
KEYS = {
    "weight_norm_hook": {"g": "c.weight_g", "v": "c.weight_v"},
    "parametrization": {
        "g": "c.parametrizations.weight.original0",
        "v": "c.parametrizations.weight.original1",
    },
}


@pytest.fixture(autouse=True, params=[1, 2], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def cases() -> list[Any]:
    return [
        pytest.param(scheme, shape, kept, dtype, id=f"{variant_id(scheme)}-{shape}-{kept}-{dtype}")
        for scheme in variants()
        for shape in SHAPES
        for kept in KEPT
        for dtype in DTYPES
        if max(kept, default=0) < len(shape) and scheme.channelwise(WeightSpec(shape, kept, dtype))
    ]


@pytest.mark.parametrize(("scheme", "shape", "kept", "dtype"), cases())
def test_a_scheme_has_the_bits_of_the_whole(scheme, shape, kept, dtype) -> None:
    weight = sample(*shape, dtype=dtype)
    whole = scheme.split(weight, WeightSpec.of(weight, kept))
    (changed,) = perturbed([whole], scheme)
    composed = [(parts, scheme.compose(parts, WeightSpec.of(weight, kept))) for parts in (whole, changed)]
    for step in CUTS:
        for start in range(0, len(weight), step):
            rows = slice(start, start + step)
            spec = WeightSpec.of(weight[rows], kept)
            for part, tensor in scheme.split(weight[rows], spec).items():
                assert_same_bits(tensor, whole[part][rows])
            for parts, expected in composed:
                some = scheme.compose({part: tensor[rows] for part, tensor in parts.items()}, spec)
                assert_same_bits(some, expected[rows])


def test_the_most_used_scheme_is_channelwise() -> None:
    assert WeightNorm().channelwise(WeightSpec((4, 3), (0,)))
    assert not WeightNorm().channelwise(WeightSpec((4, 3), (1,)))
    assert not WeightNorm().channelwise(WeightSpec((4, 3), ()))
    assert not WeightNorm(p=1.0).channelwise(WeightSpec((4, 3), (0,)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 1], ids=str)
@pytest.mark.parametrize("name", KEYS)
def test_a_layout_has_the_bits_of_the_whole(name, shape, dtype) -> None:
    v = sample(*shape, dtype=dtype)
    g = sample(len(v), *[1] * (v.dim() - 1), dtype=dtype, seed=3)
    layout, parts = LAYOUTS.get(name)(), {"g": g, "v": v}
    (group,) = find_groups({key: parts[part] for part, key in KEYS[name].items()})
    assert layout.channelwise(group)
    whole = layout.compose(group, parts)
    for step in CUTS:
        for start in range(0, len(v), step):
            some = {part: tensor[start : start + step] for part, tensor in parts.items()}
            assert_same_bits(layout.compose(group, some), whole[start : start + step])
