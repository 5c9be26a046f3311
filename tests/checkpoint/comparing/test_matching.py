"""State dicts of two files that belong together."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.layouts import twins
from wnconvert.checkpoint import find_state_dicts, fold
from wnconvert.checkpoint.comparing.matching import Outline, partners
from wnconvert.checkpoint.format import Checkpoint


def matched(own: Any, others: Any) -> dict[tuple[Hashable, ...], list[tuple[Hashable, ...]]]:
    """Return the paths of the partners by path."""
    ours, theirs = ([Outline(found) for found in find_state_dicts(content)] for content in (own, others))
    found = zip(ours, partners(ours, theirs), strict=True)
    return {one.state_dict.path: [each.state_dict.path for each in several] for one, several in found}


def gan(api: str = "hook", **models: type[nn.Module]) -> dict[str, Any]:
    torch.manual_seed(0)
    return {name: dict(model(twins.Api(api)).state_dict()) for name, model in models.items()}


GENERATOR = {"generator": twins.HifiGan}
DISCRIMINATORS = {"mpd": twins.PeriodDiscriminators, "msd": twins.Discriminators}


@pytest.mark.parametrize("api", ["hook", "parametrization", "plain"])
@pytest.mark.parametrize("names", [("mpd", "msd"), ("msd", "mpd")])
def test_models_with_the_same_names_are_told_by_their_places(api: str, names: tuple[str, str]) -> None:
    theirs = gan(**DISCRIMINATORS)
    ours = gan(api, **DISCRIMINATORS)
    assert matched({name: ours[name] for name in names}, theirs) == {(name,): [(name,)] for name in names}


@pytest.mark.parametrize("name", ["mpd", "msd", "generator"])
def test_elsewhere_they_are_told_by_their_names_and_shapes(name: str) -> None:
    file, reference = gan("plain", **GENERATOR, **DISCRIMINATORS), gan(**GENERATOR, **DISCRIMINATORS)
    assert matched(file[name], reference) == {(): [(name,)]}
    assert matched({"net": file[name]}, {"x": reference}) == {("net",): [("x", name)]}
    assert matched({f"module.{key}": tensor for key, tensor in file[name].items()}, reference) == {(): [(name,)]}


def test_equals_are_told_by_the_end_of_their_paths_and_else_all_given() -> None:
    same = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}
    reference = {"x": {"net_a": same, "net_b": dict(same)}}
    assert matched({"net_b": dict(same), "net_a": dict(same)}, reference) == {
        ("net_b",): [("x", "net_b")],
        ("net_a",): [("x", "net_a")],
    }
    assert matched(dict(same), reference) == {(): [("x", "net_a"), ("x", "net_b")]}


def test_several_may_belong_to_one_and_what_has_a_few_names_in_common_to_none() -> None:
    model = gan(**GENERATOR)["generator"]
    other = {"conv_post.weight": torch.ones(1, 2, 3), "else.weight": torch.ones(3, 3)}
    file = {"ema": fold(Checkpoint(dict(model), "torch_zip")).checkpoint.content, "model": model, "disc": other}
    assert matched(file, {"model": model}) == {("ema",): [("model",)], ("model",): [("model",)], ("disc",): []}
    assert matched({"disc": other, "more": file}, {"model": model})[("disc",)] == []
    assert matched(other, model) == {(): [()]}  # there is nothing else that it could be


def test_the_same_place_does_not_make_up_for_other_names() -> None:
    """A file in which a name means another model than it does in the reference."""
    reference = gan(**GENERATOR)
    file = {"generator": gan("plain", net=twins.Discriminators)["net"], "ema": gan("plain", net=twins.HifiGan)["net"]}
    assert matched(file, reference | {"d": gan(net=twins.Discriminators)["net"]}) == {
        ("generator",): [("d",)],
        ("ema",): [("generator",)],
    }


def test_a_weight_is_one_name_in_whatever_layout() -> None:
    own = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.utils.spectral_norm(nn.Linear(2, 2)))
    (found,) = find_state_dicts(dict(own.state_dict()))
    assert Outline(found).shapes == {"0.weight": (2, 3), "0.bias": (2,), "1.weight": (2, 2), "1.bias": (2,)}
    assert Outline(found, {}).shapes.keys() == set(own.state_dict())
