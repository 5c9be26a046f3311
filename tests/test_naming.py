"""What the names of tensors say about the weight that they are parts of."""

from __future__ import annotations

import pytest

from wnconvert.naming import identify_weight, is_original, parts_by_weight


@pytest.mark.parametrize(
    ("names", "stem", "scheme"),
    [
        (["conv.weight_g", "conv.weight_v"], "conv.weight", "weight_norm"),
        (["weight_v", "weight_g"], "weight", "weight_norm"),
        (["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"], "conv.weight", None),
        (["conv.weight_orig", "conv.weight_u", "conv.weight_v"], "conv.weight", "spectral_norm"),
        (["conv.weight_orig", "conv.weight_mask"], "conv.weight", None),
        (["a.weight_g", "b.weight_v"], None, None),
        (["conv.weight_g", "conv.weight_v", "scale"], None, None),
        (["conv.weight"], None, None),
    ],
)
def test_names_give_the_weight_and_its_scheme(names: list[str], stem: str | None, scheme: str | None) -> None:
    found, kind = identify_weight(names)
    assert (found, kind and kind.name) == (stem, scheme)


def test_what_stands_for_the_weight_is_told_from_masks_and_vectors() -> None:
    assert is_original("conv.weight_orig")
    assert is_original("conv.parametrizations.weight.original1")
    assert not is_original("conv.weight_mask")


def test_the_parts_of_several_weights_are_told_apart() -> None:
    hooked = ("b.weight_orig", "b.weight_u", "b.weight_v")
    parametrized = ("c.parametrizations.weight.original0", "c.parametrizations.weight.original1")
    names = ["a.weight_g", "a.bias", *hooked, "a.weight_v", *parametrized, "d.weight", "e.weight_g"]
    assert parts_by_weight(names) == {
        "a.weight": ("a.weight_g", "a.weight_v"),
        "b.weight": hooked,
        "c.weight": parametrized,
    }
