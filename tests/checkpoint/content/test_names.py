from __future__ import annotations

import pytest

from wnconvert.checkpoint.content.names import is_weight_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weight", True),
        ("a.b.weight", True),
        ("attn.in_proj_weight", True),
        ("rnn.weight_ih_l0", True),
        ("rnn.weight_hh_l12_reverse", True),
        ("cell.weight_hh", True),
        ("a.bias", False),
        ("a.weight_g", False),
        ("a.weights", False),
        ("a.weight_global_scale", False),
        ("weight.a", False),
    ],
)
def test_the_rule_for_names(name: str, expected: bool) -> None:
    assert is_weight_name(name) is expected
