from __future__ import annotations

import torch

from wnconvert.checkpoint.content.keys import part_groups, plain_weights


def test_only_floating_tensors_of_two_or_more_dims_are_plain_weights() -> None:
    tensors = {
        "norm.weight": torch.ones(3),
        "q.weight": torch.ones(3, 3, dtype=torch.int8),
        "sparse.weight": torch.eye(3).to_sparse(),
        "conv.weight": torch.ones(3, 3, 1),
    }
    assert [op.fqn for op in plain_weights(tensors)] == ["conv.weight"]


def test_tied_weights_are_one() -> None:
    tied = torch.ones(2, 2)
    (op,) = plain_weights({"a.weight": tied, "b.weight": tied})
    assert (op.fqn, op.aliases) == ("a.weight", ("b.weight",))


def test_the_partners_of_weight_v_tell_weight_norm_from_spectral_norm() -> None:
    tensors = {
        "sn.weight_orig": torch.ones(2, 3),
        "sn.weight_u": torch.ones(2),
        "sn.weight_v": torch.ones(3),
        "wn.weight_g": torch.ones(2, 1),
        "wn.weight_v": torch.ones(2, 3),
    }
    groups = part_groups(tensors)
    assert [(group.stem, group.scheme and group.scheme.name) for group in groups] == [
        ("sn.weight", "spectral_norm"),
        ("wn.weight", "weight_norm"),
    ]


def test_keys_that_only_look_like_parts_belong_to_no_scheme() -> None:
    tensors = {
        "q.weight_packed": torch.ones(1),
        "q.weight_global_scale": torch.ones(1),
        "q.weight_scale": torch.ones(1),
        "attn.proj_g": torch.ones(2, 1),
        "attn.proj_v": torch.ones(2, 3),
    }
    assert part_groups(tensors) == []
    assert [group.stem for group in part_groups(tensors, ["attn.proj"])] == ["attn.proj"]


def test_a_lonely_part_is_reported_without_a_scheme() -> None:
    (group,) = part_groups({"a.weight_v": torch.ones(2, 3)})
    assert (group.stem, group.scheme) == ("a.weight", None)
