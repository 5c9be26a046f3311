"""Converting a few channels at a time changes nothing but the time it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import sample
from wnconvert.checkpoint import Checkpoint, apply, fold, load, save, verify_apply, verify_content
from wnconvert.checkpoint.content import deferred
from wnconvert.checkpoint.content.deferred import DeferredTensor, defer, shape_of, slices


def weights() -> dict[str, torch.Tensor]:
    return {f"l.{name}.weight": sample(*shape, dtype=torch.float32, seed=len(name)) for name, shape in SHAPES.items()}


#: fan-ins on both sides of what makes a magnitude large beside its weight
SHAPES = {"linear": (30, 200), "conv": (16, 8, 3), "narrow": (50, 2), "row": (1, 300), "deep": (9, 4, 3, 3)}


@pytest.fixture(params=[1, 700, 1 << 21], ids="{} bytes".format)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(deferred, "BLOCK", request.param)
    return request.param


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


def test_blocks_are_the_tensor(block: int) -> None:
    value = sample(40, 30, dtype=torch.float32)
    whole = defer(lambda: value * 2, value, [value])
    parted = defer(lambda: value * 2, value, [value], lambda rows: value[rows] * 2)
    assert isinstance(whole, DeferredTensor)
    assert isinstance(parted, DeferredTensor)
    assert len(list(whole.blocks())) == 1
    assert len(list(parted.blocks())) == len(slices(value)) == (1 if block > 700 else 40 if block == 1 else 8)
    assert torch.equal(torch.cat(list(parted.blocks())), value * 2)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(3, 4),
        torch.empty(3, 4).t(),
        torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.empty(2, 3, 4).permute(2, 0, 1),
        torch.empty(3, 4)[:, :2],
        torch.empty(3, 1).expand(3, 4),
        torch.empty(1, 4).as_strided((1, 4), (77, 1)),
        torch.empty(0, 3),
        torch.empty(()),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.stride()}",
)
def test_the_strides_of_a_result_are_those_that_torch_gives(tensor: torch.Tensor) -> None:
    assert shape_of(tensor).stride() == torch.empty_like(tensor, device="meta").stride()
