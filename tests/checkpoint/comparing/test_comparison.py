from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint import Checkpoint, apply, fold
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.scheme import SCHEMES


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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


def test_a_tolerance_is_a_number_from_0_up() -> None:
    with pytest.raises(OptionError, match="tolerance is nan"):
        verify(weights(x=torch.ones(1)), weights(x=torch.ones(1)), tolerance=math.nan)
