from __future__ import annotations

import json

import torch
from torch import nn

from tests.checkpoint.conftest import WEIGHTS, checkpoint, state_dict, training_checkpoint
from wnconvert.checkpoint import apply, inspect


def test_a_plain_checkpoint_is_described() -> None:
    summaries = inspect(checkpoint(training_checkpoint()))
    assert [summary.path for summary in summaries] == ["", "model", "nested.ema", "nested.same"]
    root, model = summaries[:2]
    assert (root.tensors, root.others, root.plain) == (1, 5, ())
    assert model.plain == WEIGHTS
    assert model.zero == {"conv.weight": 1}
    assert model.dtypes == {"float32": 14, "int64": 1}
    json.dumps([summary.to_dict() for summary in summaries])


def test_a_converted_checkpoint_is_described() -> None:
    (summary,) = inspect(apply(checkpoint(state_dict())).checkpoint)
    assert summary.schemes == {"weight_norm": len(WEIGHTS) + 1}
    assert summary.recorded == len(WEIGHTS) + 1
    assert summary.plain == ()
    assert summary.zero == {"conv.weight_g": 1}


def test_oddities_are_found() -> None:
    weight = torch.ones(3, 2)
    weight[1, 0] = float("inf")
    content = {
        "a.weight": weight,
        "b.weight_v": torch.ones(2, 2),
        "c.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "d.weight": torch.ones(2, 2, device="meta"),
    }
    (summary,) = inspect(checkpoint(content))
    assert summary.non_finite == {"a.weight": 1}
    assert summary.unknown == ("b.weight",)


def test_tied_tensors_are_counted_once() -> None:
    tied = torch.ones(4, 4)
    (summary,) = inspect(checkpoint({"a": tied, "b": tied}))
    assert (summary.tensors, summary.bytes) == (2, 64)


def test_a_whole_model_is_described_by_its_state() -> None:
    (summary,) = inspect(checkpoint(nn.Linear(2, 3)))
    assert summary.plain == ("weight",)


def test_weights_without_data_are_counted_not_looked_at() -> None:
    (summary,) = inspect(checkpoint({"a.weight": torch.empty(1 << 30, 1 << 28, device="meta")}))
    assert summary.plain == ("a.weight",)
    assert (summary.zero, summary.non_finite) == ({}, {})
