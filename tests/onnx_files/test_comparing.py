"""Two ONNX files, compared by what they compute with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import numpy_helper

from tests.onnx_files.graphs import one_layer, saved
from wnconvert.onnx_files import fold_file
from wnconvert.onnx_files.comparing import compare


def test_a_folded_file_is_the_one_that_it_was_made_of(tmp_path: Path) -> None:
    path = saved(one_layer(), tmp_path / "m.onnx")
    fold_file(path, tmp_path / "out.onnx")
    pairs, only_first, only_second = compare(path, tmp_path / "out.onnx")
    assert [(pair.name, pair.computed, pair.equal) for pair in pairs] == [
        ("conv.bias", (False, False), True),
        ("conv.weight", (True, False), True),
    ]
    assert (only_first, only_second) == ([], [])


def test_what_differs_is_measured(tmp_path: Path) -> None:
    other = one_layer()
    for tensor in other.graph.initializer:
        value = numpy_helper.to_array(tensor)
        change = {"conv.weight_g": value * 2, "conv.bias": value[:4]}
        tensor.CopyFrom(numpy_helper.from_array(change.get(tensor.name, value), tensor.name))
    other.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "more"))
    pairs, only_first, only_second = compare(saved(one_layer(), tmp_path / "a"), saved(other, tmp_path / "b"))
    bias, weight = pairs
    assert bias.problem == "has shape (8,) in one, and (4,) in the other"
    assert not weight.equal
    assert weight.max_rel == 1
    assert (only_first, only_second) == ([], ["more"])
