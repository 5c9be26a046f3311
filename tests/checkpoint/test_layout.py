from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.checkpoint.layouts.grouping import only
from wnconvert.checkpoint import Checkpoint, Reading, fold, load_into, unfold, verify
from wnconvert.checkpoint.layout import LAYOUTS, find_groups, preset, read_preset, spelling
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


KERNEL = {"stem.conv.weight": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))}


def taken(presets: Any) -> Tensor:
    return fold(Checkpoint(dict(KERNEL), "torch_zip"), presets=presets).checkpoint.content["stem.conv.weight"] + 0


def loaded(presets: Any) -> Tensor:
    model = nn.ModuleDict({"stem": nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, bias=False)})})
    load_into(model, Checkpoint(dict(KERNEL), "torch_zip"), presets=presets)
    return model.state_dict()["stem.conv.weight"]


def compared(presets: Any) -> Tensor:
    source, other = (Checkpoint({"stem.conv.weight": KERNEL["stem.conv.weight"] * by}, "torch_zip") for by in (1, -1))
    (entry,) = verify(source, other, reading=Reading(presets=presets)).compared
    return torch.tensor(entry.max_abs)


def found(presets: Any) -> Tensor:
    (group,) = find_groups(KERNEL, presets=presets)
    return torch.tensor([group.layout == "timm", group.stem == "stem.conv.weight"])


@pytest.mark.parametrize("take", [taken, loaded, compared, found])
def test_presets_are_given_as_layouts_or_by_name(take: Callable[[Any], Tensor]) -> None:
    expected = take([preset("timm")])
    for presets in (["timm"], ("timm:eps=1e-6",), iter([preset("timm")]), {"timm": 1}):
        assert torch.equal(take(presets), expected)
    with pytest.raises(UnknownNameError, match="unknown layout 'timn'; did you mean"):
        take(["timn"])
    for wrong in ("timm", preset("timm"), 3, None):
        with pytest.raises(OptionError, match=r"presets is .*; give a list, of layouts or of their names"):
            take(wrong)
    for wrong in (type(preset("timm")), 3):
        with pytest.raises(OptionError, match=r"layout is .*; give its name, or wnconvert\.checkpoint\.preset"):
            take([wrong])


def test_the_layout_that_is_written_is_given_in_the_same_way() -> None:
    source = Checkpoint({"a.weight": torch.randn(3, 4)}, "torch_zip")
    keys = [
        list(unfold(source, layout).checkpoint.content) for layout in ("parametrization", preset("parametrization"))
    ]
    assert keys[0] == keys[1] != ["a.weight"]
    wrong: Any = type(preset("parametrization"))
    with pytest.raises(OptionError, match=r"layout is .*Parametrization.*; give its name"):
        unfold(source, wrong)
