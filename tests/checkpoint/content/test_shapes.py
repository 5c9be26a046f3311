from __future__ import annotations

import pytest
import torch

from wnconvert.checkpoint.content.shapes import fitting_dims, kept_dims


@pytest.mark.parametrize(
    ("g", "v", "expected"),
    [
        ((4, 1, 1), (4, 3, 5), (0,)),
        ((1, 3, 1), (4, 3, 5), (1,)),
        ((4, 3, 1), (4, 3, 5), (0, 1)),
        ((), (4, 3), ()),
        ((1, 1), (4, 3), ()),
        ((1, 1), (1, 3), (0,)),  # as in torch's default; the norm is the same
        ((4,), (4, 3), None),
        ((4, 3), (4, 5), None),
        ((2, 1), (4, 3), None),
        ((), (), None),
    ],
)
def test_a_magnitude_shows_which_dims_it_keeps(
    g: tuple[int, ...], v: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    assert kept_dims(g, v) == expected


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_it_shows_what_torch_kept(dim: int | None) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 3, 5), dim=dim)
    parts = layer.parametrizations.weight
    assert kept_dims(parts.original0.shape, parts.original1.shape) == (() if dim is None else (dim,))


@pytest.mark.parametrize(
    ("weight", "u", "v", "expected"),
    [
        ((4, 3, 5), (4,), (15,), [0]),
        ((4, 3, 5), (3,), (20,), [1]),
        ((4, 4), (4,), (4,), [0, 1]),
        ((4, 3, 4), (4,), None, [0, 2]),
        ((4, 3), (4,), (4,), []),
        ((4, 3), (4, 1), (3,), []),
        ((4, 3), (4,), (3, 1), []),
        ((4,), (4,), (1,), []),
        ((0, 3), (0,), (3,), []),
    ],
)
def test_the_lengths_of_vectors_show_which_dims_fit(
    weight: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...] | None, expected: list[int]
) -> None:
    assert fitting_dims(weight, u, v) == expected
