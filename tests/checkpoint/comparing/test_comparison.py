from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnconvert.checkpoint import Checkpoint, apply, fold
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.comparing.effective import ordered_bits
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.layout import preset
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.scheme import SCHEMES


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def checkpoint(content: object) -> Checkpoint:
    return Checkpoint(content, "torch_zip")


def weights(**tensors: torch.Tensor) -> Checkpoint:
    return checkpoint(tensors)


def test_a_file_equals_itself_in_any_layout() -> None:
    torch.manual_seed(0)
    hook = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4))).state_dict()
    torch.manual_seed(0)
    parametrized = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4))).state_dict()
    found = verify(checkpoint({"model": hook}), checkpoint(parametrized))
    assert found.equal
    assert {entry.name: entry.layouts for entry in found.compared} == {
        "model.0.weight": ("weight_norm_hook", "parametrization"),
        "model.0.bias": ("plain", "plain"),
    }


@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES.get(name)().preserving])
def test_an_applied_file_equals_its_source(name: str) -> None:
    source = checkpoint({"model": nn.Sequential(nn.Conv1d(3, 4, 5), nn.Linear(4, 4)).half().state_dict()})
    applied = apply(source, name, dim=0).checkpoint
    assert verify(source, applied).equal
    assert verify(applied, fold(applied).checkpoint).equal


def test_prefixes_paths_and_optimizers_do_not_count() -> None:
    state = nn.Linear(3, 4).state_dict()
    wrapped = {f"module._orig_mod.{key}": value for key, value in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    assert verify(checkpoint({"a": {"net": state}, "optim": optimizer}), checkpoint(wrapped)).equal
    assert verify(checkpoint({"a": {"net": state}}), checkpoint({f"a.net.{k}": v for k, v in state.items()})).equal
    assert unwrapped("module.a._fsdp_wrapped_module.module") == "a.module"


def test_state_dicts_are_matched_by_what_they_have_in_common() -> None:
    one, two = nn.Linear(3, 4).state_dict(), nn.Conv1d(3, 4, 1).state_dict()
    two = {f"deep.{key}": value for key, value in two.items()}
    found = verify(checkpoint({"g": one, "d": two}), checkpoint({"first": dict(two), "second": dict(one)}))
    assert found.equal
    assert len(found.compared) == 4


def test_differences_have_figures() -> None:
    a = torch.tensor([1.0, 2.0, -4.0])
    b = torch.nextafter(a, torch.tensor(math.inf))
    found = verify(weights(x=a), weights(x=b))
    (entry,) = found.compared
    assert (found.equal, found.passed, entry.ulps) == (False, False, 1)
    assert entry.max_abs == 2**-22
    assert entry.max_rel == 2**-24
    assert verify(weights(x=a), weights(x=b), tolerance=1e-6).passed
    assert found.summary == "'x': differs by up to 2.38e-07"
    json.dumps(found.to_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ulps_count_neighbours_across_zero(dtype: torch.dtype) -> None:
    least = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    assert ordered_bits(torch.stack([-least, -0.0 * least, 0.0 * least, least])).tolist() == [-1, 0, 0, 1]
    most = torch.full((2,), torch.finfo(dtype).max, dtype=dtype)
    far = verify(weights(x=most), weights(x=-most))
    assert (far.compared[0].ulps or 0) > 2**15


def test_zeros_of_either_sign_differ_in_bits_alone() -> None:
    found = verify(weights(x=torch.zeros(2)), weights(x=-torch.zeros(2)))
    assert (found.equal, found.passed) == (False, False)
    assert (found.compared[0].ulps, found.compared[0].max_rel) == (0, 0.0)
    assert verify(weights(x=torch.zeros(2)), weights(x=-torch.zeros(2)), tolerance=1e-9).passed


def test_equal_nans_do_not_differ_and_others_do() -> None:
    nan, one = torch.tensor([math.nan, 1.0]), torch.ones(2)
    assert verify(weights(x=nan), weights(x=nan.clone())).equal
    (entry,) = verify(weights(x=nan), weights(x=one), tolerance=0.5).differing
    assert (entry.max_abs, entry.ulps) == (math.inf, None)


def test_dtypes_and_shapes_count() -> None:
    a = torch.randn(4, 4)
    half = verify(weights(x=a), weights(x=a.half()), tolerance=1e-3)
    assert (half.passed, half.equal, half.compared[0].ulps) == (True, False, None)
    (entry,) = verify(weights(x=a), weights(x=a[:2]), tolerance=1.0).differing
    assert entry.problem == "shapes (4, 4) and (2, 4) differ"


def test_what_only_one_has_is_a_difference() -> None:
    found = verify(weights(x=torch.ones(1), y=torch.ones(1)), weights(x=torch.ones(1), z=torch.ones(1)), tolerance=1.0)
    assert (found.only_first, found.only_second, found.passed) == (("y",), ("z",), False)
    with pytest.raises(NothingToConvertError, match="no tensor of the same name"):
        verify(weights(x=torch.ones(1)), weights(y=torch.ones(1)))


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


def test_a_tolerance_is_a_number_from_0_up() -> None:
    with pytest.raises(OptionError, match="tolerance is nan"):
        verify(weights(x=torch.ones(1)), weights(x=torch.ones(1)), tolerance=math.nan)


def test_a_whole_model_is_compared_by_its_state() -> None:
    model = nn.utils.weight_norm(nn.Linear(3, 4))
    assert verify(checkpoint(model), checkpoint(model.state_dict())).equal
