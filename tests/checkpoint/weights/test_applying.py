"""Splitting the weights of one state dict, all at once or a few channels at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoint.conftest import checkpoint, reasons
from tests.helpers import sample
from wnconvert.checkpoint import (
    Checkpoint,
    apply,
    bits_equal,
    fold,
    load,
    save,
    verify_apply,
    verify_content,
)
from wnconvert.errors import NothingToConvertError
from wnconvert.scheme import SCHEMES, WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm


def test_every_weight_is_converted_or_skipped_with_a_reason() -> None:
    nan = torch.ones(2, 2)
    nan[0, 0] = float("nan")
    content = {
        "good.weight": torch.ones(2, 2),
        "nan.weight": nan,
        "meta.weight": torch.ones(2, 2, device="meta"),
        "empty.weight": torch.ones(0, 2),
        "float8.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "taken.weight": torch.ones(2, 2),
        "taken.weight_v": torch.ones(1),
        "mmcv.weight": torch.ones(2, 2),
        "mmcv.weight_gamma": torch.ones(2, 1),
        "done.weight_g": torch.ones(2, 1),
        "done.weight_v": torch.ones(2, 2),
        "other.weight_direction": torch.ones(2, 2),
    }
    report = apply(checkpoint(content)).report
    assert [entry.fqn for entry in report.converted] == ["good.weight"]
    assert reasons(report) == {
        "nan.weight": "it holds non-finite values",
        "meta.weight": "has no data",
        "empty.weight": "it is empty, of shape (0, 2)",
        "float8.weight": "its dtype float8_e4m3fn is none that a scheme can compute with",
        "taken.weight": "the key 'taken.weight_v' is in the way",
        "mmcv.weight": "the key 'mmcv.weight_gamma' is in the way",
        "done.weight": "already under weight_norm",
        "other.weight": "under unit_norm; fold that first",
    }
    assert {entry.fqn for entry in report.skipped if entry.already} == {"done.weight"}


def test_non_finite_weights_are_left_alone_by_every_scheme() -> None:
    content = {"a.weight": torch.full((2, 2), float("inf")), "b.weight": torch.ones(2, 2)}
    for name in SCHEMES:
        assert [entry.fqn for entry in apply(checkpoint(content), name, dim=0).report.converted] == ["b.weight"]


def test_what_spans_all_weights_is_not_applied_beside_parts_of_some() -> None:
    content = {"a.weight": torch.ones(2, 2), "b.weight_network_v": torch.ones(2, 2)}
    with pytest.raises(NothingToConvertError, match=r"the key 'b\.weight_network_v' is in the way"):
        apply(checkpoint(content), "network_norm", dim=0)


class Lossy(WeightNorm):
    """Promises the same bits and breaks the promise for large weights."""

    def compose(self, parts: Any, spec: WeightSpec) -> Tensor:
        composed = super().compose(parts, spec)
        return composed + 1 if composed.abs().max() > 10 else composed


def test_a_weight_whose_parts_do_not_give_it_back_is_left_alone() -> None:
    content = {"small.weight": torch.ones(2, 2), "large.weight": torch.full((2, 2), 99.0)}
    applied = apply(checkpoint(content), Lossy())
    assert [entry.fqn for entry in applied.report.converted] == ["small.weight"]
    assert reasons(applied.report) == {"large.weight": "its norm has no exact representation in float32"}
    assert bits_equal(applied.checkpoint.content["large.weight"], content["large.weight"])


def weights() -> dict[str, torch.Tensor]:
    return {f"l.{name}.weight": sample(*shape, dtype=torch.float32, seed=len(name)) for name, shape in SHAPES.items()}


#: fan-ins on both sides of what makes a magnitude large beside its weight
SHAPES = {"linear": (30, 200), "conv": (16, 8, 3), "narrow": (50, 2), "row": (1, 300), "deep": (9, 4, 3, 3)}


@pytest.mark.parametrize("name", ["torch_zip", "safetensors"])
def test_a_file_has_the_bytes_of_the_whole_way(tmp_path: Path, block: int, name: str, monkeypatch) -> None:
    source = tmp_path / "in"
    save(Checkpoint(weights(), name), source, source=tmp_path / "none")
    outputs = []
    for where in ("blocks", "whole"):
        if where == "whole":
            monkeypatch.setattr("wnconvert.schemes.weight_norm.WeightNorm.channelwise", lambda self, spec: False)
        content = load(source)
        applied, folded = tmp_path / f"{where}.applied", tmp_path / f"{where}.folded"
        done = apply(content)
        assert done.report.exact
        save(done.checkpoint, applied, source=source, verify=lambda w, c=content, d=done: verify_apply(c, d, w))
        back = fold(load(applied))
        save(back.checkpoint, folded, source=applied, verify=lambda w, b=back: verify_content(b.checkpoint, w))
        outputs.append((applied.read_bytes(), folded.read_bytes()))
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == source.read_bytes()


def test_a_channel_of_zeros_takes_the_whole_way(block: int) -> None:
    content = weights()
    content["l.linear.weight"][7] = 0
    done = apply(Checkpoint(content, "torch_zip"))
    assert done.report.exact
    parts = done.checkpoint.content
    assert parts["l.linear.weight_g"][7] == 0
    assert (parts["l.linear.weight_v"][7] + 0 == 1).all()
    assert torch.equal(fold(done.checkpoint).checkpoint.content["l.linear.weight"] + 0, content["l.linear.weight"])
