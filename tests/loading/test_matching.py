"""Which tensors of a file belong to which weights of a model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import weight_norm

from tests.checkpoint.conftest import checkpoint
from tests.loading.conftest import FORMS
from wnconvert.loading.forms import held_by
from wnconvert.loading.matching import Match, Matching
from wnconvert.loading.places import places


def match(model: nn.Module, content: dict[str, torch.Tensor]) -> Match:
    (place,) = places(checkpoint(content), None)
    return Matching(place, held_by(model), "default", ()).run()


def test_the_names_of_wrappers_count_for_nothing_unless_they_tell_two_tensors_apart():
    wrapped = {f"_orig_mod.module.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()}
    assert match(nn.Linear(2, 2), wrapped).copied == {
        "weight": "_orig_mod.module.weight",
        "bias": "_orig_mod.module.bias",
    }
    both = nn.ModuleDict({"weighted": nn.Linear(2, 2)})
    both["module"] = nn.ModuleDict({"weighted": nn.Linear(2, 2)})
    found = match(both, both.state_dict())
    assert found.fits
    assert all(key == own for key, own in found.copied.items())


def test_each_weight_has_one_step_and_everything_else_is_told():
    found = match(FORMS["hook"](0), FORMS["parametrization"](1).state_dict())
    assert found.fits
    assert [step.how for step in found.steps] == ["respelled"] * 3 + ["as is"] * 7
    content = dict(FORMS["plain"](1).state_dict()) | {"9.weight": torch.ones(1)}
    content["0.bias"] = torch.ones(7)
    del content["4.weight"]
    found = match(FORMS["hook"](0), content)
    assert found.missing == ["4.weight_g", "4.weight_v"]
    assert found.left == ["9.weight"]
    assert found.misfits == ["'0.bias' is (7,), but (4,) in the model"]
    assert not found.fits


def test_magnitudes_of_other_dims_are_not_the_same_parts():
    content = weight_norm(nn.Linear(3, 3), dim=1).state_dict()
    assert [step.how for step in match(weight_norm(nn.Linear(3, 3), dim=1), content).steps] == ["as is", "as is"]
    other = match(weight_norm(nn.Linear(3, 3)), content)
    assert [step.how for step in other.steps] == ["folded and split", "as is"]


def test_the_count_that_old_batch_norms_lack_is_not_missed():
    content = {key: value for key, value in nn.BatchNorm1d(3).state_dict().items() if key != "num_batches_tracked"}
    assert match(nn.BatchNorm1d(3), content).fits
