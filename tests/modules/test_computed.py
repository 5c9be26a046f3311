"""Which weights are computed, by what, and from which of the module's own parameters."""

from __future__ import annotations

import pytest
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from tests.modules.making import converted_in_place
from wnconvert.graph.entries import Entry
from wnconvert.modules.computed import (
    HOOK,
    IN_PLACE,
    PARAMETRIZATION,
    computed_below,
    computed_weights,
    is_below,
    is_part,
)

WAYS = {
    "weight norm by a hook": (weight_norm, HOOK, ("weight_g", "weight_v")),
    "spectral norm by a hook": (spectral_norm, HOOK, ("weight_orig", "weight_u", "weight_v")),
    "a parametrization": (parametrizations.weight_norm, PARAMETRIZATION, ()),
    "in place": (converted_in_place, IN_PLACE, ("weight_g", "weight_v")),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_computes_a_weight_is_told(way) -> None:
    normalize, by, parts = WAYS[way]
    module = normalize(nn.Linear(3, 2))
    (computed,) = computed_weights("layer", module)
    assert (computed.fqn, computed.by, computed.parts) == ("layer.weight", by, parts)
    assert computed.module is module


def test_a_module_with_another_hook_computes_nothing() -> None:
    module = nn.Linear(3, 2)
    module.register_forward_pre_hook(lambda *_: None)
    assert list(computed_weights("", module)) == []


@pytest.mark.parametrize("way", WAYS)
def test_parts_are_told_from_other_parameters(way) -> None:
    model = nn.Sequential(WAYS[way][0](nn.Linear(3, 2)), nn.Linear(2, 2))
    parts = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if is_part(Entry(module, path, name))
    }
    named = {name for name, _ in model.named_parameters()}
    assert parts == named - {"0.bias", "1.weight", "1.bias"}


def test_only_what_is_below_the_paths_is_looked_at() -> None:
    inner = nn.Sequential(weight_norm(nn.Linear(2, 2)), weight_norm(nn.Linear(2, 2)))
    model = nn.ModuleDict({"a": inner, "ab": weight_norm(nn.Linear(2, 2))})
    assert [computed.fqn for computed in computed_below(model)] == ["a.0.weight", "a.1.weight", "ab.weight"]
    assert [computed.fqn for computed in computed_below(model, {"a"})] == ["a.0.weight", "a.1.weight"]
    assert [computed.fqn for computed in computed_below(model, {"a.1"})] == ["a.1.weight"]


@pytest.mark.parametrize(
    ("path", "paths", "below"),
    [
        ("a.b", {"a"}, True),
        ("a", {"a"}, True),
        ("ab", {"a"}, False),
        ("a", {"a.b"}, False),
        ("a.b", {""}, True),
        ("", {""}, True),
        ("", {"a"}, False),
        ("a", set(), False),
    ],
)
def test_a_name_is_below_itself_and_what_it_begins_with(path, paths, below) -> None:
    assert is_below(path, paths) is below
