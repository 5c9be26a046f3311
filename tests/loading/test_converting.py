"""The tensors that a model is given."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint.content.deferred import DeferredTensor
from wnconvert.loading.converting import convert, distance
from wnconvert.loading.forms import held_by
from wnconvert.loading.matching import Matching
from wnconvert.loading.places import places


def test_large_weights_are_composed_when_the_model_takes_them():
    saved, model = parametrizations.weight_norm(nn.Linear(64, 64)), nn.Linear(64, 64)
    held = held_by(model)
    (place,) = places(checkpoint(saved.state_dict()), None)
    made = convert(Matching(place, held, "default", ()).run(), held)
    assert list(made.entries) == ["weight", "bias"]
    assert isinstance(made.entries["weight"], DeferredTensor)
    assert torch.equal(made.entries["weight"], saved.weight)
    assert made.refused == []


def test_the_distance_of_tensors_of_any_dtypes():
    one = torch.tensor([1.0, 2.0])
    assert distance(one, one.half()) == 0.0
    assert distance(torch.tensor([0.1]), torch.tensor([0.1]).half()) > 0
    assert distance(one, torch.tensor([1.0, math.nan])) == math.inf
    assert distance(torch.zeros(0), torch.zeros(0)) == 0.0
    assert distance(torch.tensor([1]), torch.tensor([1], dtype=torch.int32)) == 0.0
    assert distance(torch.tensor([2**40 + 1]), torch.tensor([1], dtype=torch.int32)) == 2.0**40
    assert distance(torch.tensor([3]), torch.tensor([True])) == 2.0
    complex_ = torch.tensor([1 + 2j])
    assert distance(complex_, torch.tensor([1.0])) == 2.0
    assert distance(complex_, complex_.to(torch.complex128)) == 0.0
    assert distance(complex_.to(torch.complex128) / 3, complex_ / 3) > 0
    assert distance(complex_.to(torch.complex128).conj(), complex_) == 4.0
