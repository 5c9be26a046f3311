"""Where in a file the tensors of a model may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint, recorded
from wnconvert.errors import OptionError
from wnconvert.loading.places import places
from wnconvert.scheme import resolve_scheme


def test_each_dict_of_tensors_is_a_place_and_all_of_them_together_are_the_last():
    one = torch.ones(1)
    content = {"step": 3, "a": {"w": one}, "b": [{"w": one, "x": {"w": one}}], "optimizer": None}
    found = list(places(checkpoint(content), None))
    assert [each.name for each in found] == ["a", "b.0", "b.0.x", ""]
    assert set(found[-1].state_dict.tensors) == {"a.w", "b.0.w", "b.0.x.w"}
    assert [str(each) for each in found][-1] == "the root"
    assert [each.name for each in places(checkpoint({"w": one}), None)] == [""]


def test_a_path_leads_through_dicts_and_names_and_takes_the_records_along():
    content = {"a.b.weight_g": torch.ones(2, 1), "a.b.weight_v": torch.ones(2, 2), "ab.weight": torch.ones(1)}
    source = recorded(content, a_b_weight=(resolve_scheme("weight_norm"), (0,)))
    (place,) = places(source, "a")
    assert list(place.state_dict.tensors) == ["b.weight_g", "b.weight_v"]
    assert place.recorded.keys() == {"b.weight"}
    with pytest.raises(OptionError, match=r"no tensor below 'a.b.weight_g' \(there are state dicts at: the root\)"):
        list(places(source, "a.b.weight_g"))


def test_a_module_is_its_state_dict():
    (place,) = places(checkpoint(nn.Linear(2, 2)), None)
    assert list(place.state_dict.tensors) == ["weight", "bias"]
