"""What the texts of options mean."""

from __future__ import annotations

import pytest

from wnconvert.errors import OptionError
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert_cli.texts import read_dim, read_kept_dim, read_scheme, suggest


@pytest.mark.parametrize(
    ("text", "dim"), [(None, "default"), ("None", None), ("OUTPUT", "output"), ("1", 1), ("-1", -1)]
)
def test_dims(text: str | None, dim: object) -> None:
    assert read_dim(text) == dim


def test_dims_that_mean_nothing_are_refused() -> None:
    with pytest.raises(OptionError, match="--dim is 'first'; the kept dim must be a number, 'none' or 'output'"):
        read_dim("first")
    with pytest.raises(OptionError, match="--dim is 'output'; to compare, give the kept dim as a number or 'none'"):
        read_kept_dim("output", "to compare")


def test_schemes_with_options() -> None:
    assert read_scheme("weight_norm", ["written_out=true"]) == WeightNorm(written_out=True)
    with pytest.raises(OptionError, match="'eps' is not of the form key=value"):
        read_scheme("weight_norm", ["eps"])


def test_what_was_meant_is_suggested() -> None:
    assert suggest("conv2", ["conv2d", "linear"]) == "; did you mean 'conv2d'? (known: conv2d, linear)"
    assert suggest("x", []) == " (known: none)"
