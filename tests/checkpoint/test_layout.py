from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.layouts.grouping import only
from wnconvert.checkpoint.layout import LAYOUTS, preset, read_preset, spelling
from wnconvert.errors import OptionError, UnknownNameError


def test_parts_without_data_or_of_several_dtypes_are_refused() -> None:
    assert (
        only({"c.weight_g": torch.ones(2, 1), "c.weight_v": torch.ones(2, 3).half()}).problem
        == "its parts have several dtypes"
    )
    assert only({"c.weight_g": torch.ones(2, 1).int(), "c.weight_v": torch.ones(2, 3)}).problem is not None
    assert only({"c.weight_g": torch.ones(0, 1), "c.weight_v": torch.ones(0, 3)}).problem == "its part 'g' has no data"


def test_shapes_alone_are_enough_where_they_show_everything() -> None:
    state = parametrizations.weight_norm(nn.Linear(3, 4)).state_dict()
    shapes = {key: value.to("meta") for key, value in state.items()}

    def load(key: str) -> Tensor:
        raise AssertionError(key)

    group = only(shapes, load=load)
    assert (group.kept, group.problem) == ((0,), None)


def test_every_layout_has_a_title_and_explains_itself() -> None:
    for name in LAYOUTS:
        layout = LAYOUTS.get(name)
        assert layout.name == name
        assert layout.title
        assert layout.__doc__


def test_what_torch_cannot_spell_is_refused() -> None:
    assert spelling("parametrization", "weight_norm").name == "parametrization"
    with pytest.raises(UnknownNameError, match="torch has no hook of unit_norm"):
        spelling("hook", "unit_norm")
    with pytest.raises(OptionError, match="has not all of the options 'epsilon'"):
        preset("timm", epsilon=1.0)
    assert read_preset("nfnet") == preset("nfnet")
    assert read_preset("nfnet:gamma=1.7,only=a,b") == preset("nfnet", gamma=1.7, only="a,b")
    for text in ("timm:epsilon=1", "timm:eps", "timm:eps=x", "biggan:gamma=1", "gain:x=1"):
        with pytest.raises(OptionError, match=text.partition(":")[0]):
            read_preset(text)
    with pytest.raises(UnknownNameError, match="did you mean 'timm-bit'"):
        preset("timm-bits")
