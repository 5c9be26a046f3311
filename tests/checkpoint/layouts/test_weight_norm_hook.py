from __future__ import annotations

import torch

from tests.checkpoint.layouts.grouping import only
from wnconvert.checkpoint.layout import find_groups


def test_names_that_are_not_of_weights_are_taken_only_if_named() -> None:
    tensors = {"attn.proj_g": torch.ones(2, 1), "attn.proj_v": torch.ones(2, 3), "q.weight_global_scale": torch.ones(1)}
    assert find_groups(tensors) == []
    assert only(tensors, named=lambda stem: stem == "attn.proj").stem == "attn.proj"


def test_a_lone_part_is_reported() -> None:
    assert only({"c.weight_v": torch.ones(2, 3)}).problem == "its parts 'v' are not those of any scheme"
