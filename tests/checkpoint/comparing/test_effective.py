from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint, recorded
from wnconvert.checkpoint import Checkpoint, apply, fold
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.comparing.effective import ordered_bits
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.layout import preset
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.schemes.weight_norm import WeightNorm


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_prefixes_paths_and_optimizers_do_not_count() -> None:
    state = nn.Linear(3, 4).state_dict()
    wrapped = {f"module._orig_mod.{key}": value for key, value in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    assert verify(checkpoint({"a": {"net": state}, "optim": optimizer}), checkpoint(wrapped)).equal
    assert verify(checkpoint({"a": {"net": state}}), checkpoint({f"a.net.{k}": v for k, v in state.items()})).equal
    assert unwrapped("module.a._fsdp_wrapped_module.module") == "a.module"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ulps_count_neighbours_across_zero(dtype: torch.dtype) -> None:
    least = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    assert ordered_bits(torch.stack([-least, -0.0 * least, 0.0 * least, least])).tolist() == [-1, 0, 0, 1]
    most = torch.full((2,), torch.finfo(dtype).max, dtype=dtype)
    far = verify(checkpoint({"x": most}), checkpoint({"x": -most}))
    assert (far.compared[0].ulps or 0) > 2**15


def test_an_ambiguous_weight_is_compared_by_its_parts() -> None:
    state = nn.utils.spectral_norm(nn.Linear(4, 4)).state_dict()
    assert verify(checkpoint(state), checkpoint(dict(state))).equal
    assert "weight_orig" in [entry.name for entry in verify(checkpoint(state), checkpoint(dict(state))).compared]
    told = verify(checkpoint(state), checkpoint(dict(state)), reading=Reading(dim=0))
    assert [entry.name for entry in told.compared] == ["weight", "bias"]


def test_presets_and_precision_are_given_by_the_reader() -> None:
    raw = {"stem.conv1.weight": torch.randn(4, 3, 3, 3)}
    flat = raw["stem.conv1.weight"].flatten(1)
    plain = {
        "stem.conv1.weight": ((flat - flat.mean(1, True)) / (flat.var(1, correction=0, keepdim=True) + 1e-8).sqrt())
    }
    plain["stem.conv1.weight"] = plain["stem.conv1.weight"].reshape(4, 3, 3, 3)
    reading = Reading(presets=(preset("timm-bit"),))
    assert not verify(checkpoint(raw), checkpoint(plain), tolerance=1e-2).passed
    found = verify(checkpoint(raw), checkpoint(plain), reading=reading, tolerance=1e-4)
    # the preset reads both files, and standardizing twice changes little
    assert found.passed


def test_a_whole_model_is_compared_by_its_state() -> None:
    model = nn.utils.weight_norm(nn.Linear(3, 4))
    assert verify(checkpoint(model), checkpoint(model.state_dict())).equal


def test_names_that_only_a_record_tells_are_compared_too() -> None:
    parts = {"x.proj_g": torch.rand(4, 1) + 1, "x.proj_v": torch.randn(4, 3)}
    source = recorded(parts, x_proj=(WeightNorm(), (0,)))
    folded = fold(source)
    assert list(folded.checkpoint.content) == ["x.proj"]
    assert verify(source, folded.checkpoint).equal


def test_parts_in_common_are_not_compared_once_more() -> None:
    source = Checkpoint({"a.weight": torch.randn(4, 3), "b.weight": torch.randn(2, 3)}, "torch_zip")
    applied = apply(source, "network_norm").checkpoint
    assert verify(source, applied).equal
    g = torch.ones(3)
    broken: dict[str, Any] = {**applied.content, "b.weight_network_v": torch.ones(2, 3, dtype=torch.int64), "c": g}
    told = verify(Checkpoint(broken, "torch_zip", applied.metadata), Checkpoint({"c": g}, "torch_zip"))
    assert told.only_first == ("network_g", "a.weight_network_v", "b.weight_network_v")
