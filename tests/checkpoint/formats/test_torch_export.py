"""Archives of torch.export, taken apart without torch.export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

from tests.checkpoint.hostile import archive
from wnconvert.checkpoint import load
from wnconvert.checkpoint.formats.torch_export import DTYPES
from wnconvert.errors import CheckpointError


def test_the_numbers_of_dtypes_are_those_of_torch() -> None:
    theirs = {int(number): dtype for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()}
    assert theirs.items() <= DTYPES.items()


def written(path: Path, configs: int = 1, more: bytes = b"", **changes: Any) -> Path:
    meta = {"dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "requires_grad": False, "layout": 7}
    meta |= {"storage_offset": {"as_int": 1}, **{key: value for key, value in changes.items() if key in meta}}
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    entry |= {key: value for key, value in changes.items() if key in entry}
    config = json.dumps({"config": {"a": entry}}).encode()
    data = torch.arange(3.0).numpy().tobytes()
    return archive(
        path,
        {
            "m/archive_format": b"pt2",
            **{f"m/data/weights/{name}_weights_config.json": config for name in "xyz"[:configs]},
            "m/data/weights/weight_0": data + more,
        },
    )


def test_weights_are_what_their_description_says(tmp_path: Path) -> None:
    content = load(written(tmp_path / "a")).content
    assert torch.equal(content["a"], torch.tensor([1.0, 2.0]))
    assert isinstance(content["a"], torch.nn.Parameter)
    assert not content["a"].requires_grad
    assert not isinstance(load(written(tmp_path / "a", is_param=False)).content["a"], torch.nn.Parameter)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"configs": 0}, "of an older kind; save its weights"),
        ({"configs": 2}, "of several models; save its weights"),
        ({"use_pickle": True}, "'a' is not stored as a plain tensor"),
        ({"dtype": 99}, "'a' is not stored as a plain tensor"),
        ({"layout": 1}, "'a' is not stored as a plain tensor"),
        ({"path_name": "weight_1"}, "its record 'm/data/weights/weight_1' is missing"),
        ({"sizes": [{"as_int": 4}]}, "is damaged"),
    ],
)
def test_what_is_no_plain_weight_is_refused(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load(written(tmp_path / "a", **how))


@pytest.mark.parametrize("more", [b"x", b"xxx"])
def test_a_record_that_is_no_whole_number_of_elements_is_refused(tmp_path: Path, more: bytes) -> None:
    with pytest.raises(CheckpointError, match="bytes, which are no whole number of elements"):
        load(written(tmp_path / "a", more=more))
