"""The weights of an ONNX file, as they are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.onnx_files.graphs import array, convolution, exported, model, node, normed, parts, saved
from wnconvert.checkpoint.measuring.statistics import measure_all
from wnconvert.errors import CheckpointError
from wnconvert.onnx_files.measuring import effective


def test_computed_weights_are_computed_and_plain_ones_are_as_they_are(tmp_path: Path) -> None:
    nodes = [
        *normed("a.weight_g", "a.weight_v", "w"),
        convolution("w", "a.bias", y="h"),
        convolution("c.weight", "a.bias", "h", "k"),
        convolution("c.weight", "a.bias", "k", "y"),
    ]
    tensors = parts("a") | {"c.weight": array(8, 8, 3)}
    path = saved(model(nodes, tensors), tmp_path / "m.onnx")
    with effective(path) as read:
        found = {each.name: (each.spelled, each.scheme, each.value().clone()) for each in read}
    assert [*found] == ["a.weight", "c.weight"]
    assert found["a.weight"][:2] == ("expression", "weight_norm")
    lengths = torch.linalg.vector_norm(found["a.weight"][2].flatten(1), dim=1)
    torch.testing.assert_close(lengths, torch.from_numpy(np.abs(tensors["a.weight_g"]).flatten()))
    assert found["c.weight"][:2] == ("plain", None)
    assert torch.equal(found["c.weight"][2], torch.from_numpy(tensors["c.weight"]))


@pytest.mark.parametrize("dynamo", [True, False])
def test_channels_are_those_of_the_model(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 5)).eval()
    path = exported(net, torch.randn(2, 3, 4), tmp_path / "m.onnx", dynamo=dynamo)
    with effective(path) as tensors:
        found = [*measure_all(tensors)]
    for each, layer in zip(found, net, strict=True):
        assert each.norms is not None
        assert each.norms.count == len(layer.weight)
        lengths = torch.linalg.vector_norm(layer.weight.detach(), dim=1)
        assert each.norms.max == pytest.approx(lengths.max().item())


def test_weights_in_half_precision_are_read(tmp_path: Path) -> None:
    tensors = {"c.weight": array(8, 4, 3).astype(np.float16), "x.bias": array(8).astype(np.float16)}
    nodes = [
        node("Cast", ["x"], "half", to=10),
        convolution("c.weight", "x.bias", "half", "h"),
        node("Cast", ["h"], "y", to=1),
    ]
    with effective(saved(model(nodes, tensors), tmp_path / "m.onnx")) as (each,):
        assert torch.equal(each.value(), torch.from_numpy(tensors["c.weight"]))


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07nothing")
    with pytest.raises(CheckpointError), effective(tmp_path / "m.onnx"):
        pass
