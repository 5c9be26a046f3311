"""What the manifest says of folded weights, and what reading one believes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import CASES, checkpoint
from wnconvert.checkpoint import Checkpoint, apply, difference, fold, inspect, load, manifest, migrate, preset, save
from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
from wnconvert.checkpoint.manifest import Applied, Folded
from wnconvert.errors import CheckpointError, WnconvertError
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.schemes.weight_norm import WeightNorm


def folded(content: object, **options: object) -> dict[str, Folded]:
    return manifest.read_folded(fold(checkpoint(content), **options).checkpoint.metadata)  # type: ignore[arg-type]


def test_what_is_folded_is_recorded_with_scheme_options_dims_and_layout() -> None:
    torch.manual_seed(0)
    own = parametrizations.weight_norm
    hook = nn.utils.weight_norm(nn.ConvTranspose1d(4, 6, 3), dim=1)
    stacked = parametrizations.spectral_norm(own(nn.Linear(5, 4)))
    spectral = nn.utils.spectral_norm(nn.Linear(7, 5))
    net = nn.ModuleDict({"hook": hook, "own": own(nn.Linear(4, 4), dim=None), "both": stacked, "s": spectral})
    norm, options = WeightNorm(), (("p", 2.0), ("log_g", False), ("written_out", False))
    assert folded({"net": net.state_dict(), "epoch": 3}) == {
        "net.hook.weight": Folded("weight_norm", options, "weight_norm_hook", (1,)),
        "net.own.weight": Folded("weight_norm", options, "parametrization", ()),
        "net.both.weight": Folded("weight_norm+spectral_norm", (), "parametrization", (0,)),
        "net.s.weight": Folded.of("spectral_norm", "spectral_norm_hook", (0,), SpectralNorm()),
    }
    assert folded(hook.state_dict())["weight"].applied == Applied(norm, (1,))


def test_presets_wrappers_and_lost_records_are_recorded() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3)
    assert folded({"stem.conv.weight": weight}, presets=[preset("timm-bit", eps=1e-3)]) == {
        "stem.conv.weight": Folded("weight_standardization", (("eps", 1e-3), ("only", "")), "timm-bit", (0,))
    }
    wrapped = {"c.module.weight_bar": torch.randn(4, 3), "c.module.weight_u": torch.randn(4)}
    wrapped["c.module.weight_v"] = torch.randn(3)
    assert [(name, was.layout) for name, was in folded(wrapped).items()] == [("c.weight", "spectral_norm_bar")]
    lost = apply(checkpoint({"a.weight": weight, "b.weight": weight * 2}), "network_norm").checkpoint.content
    assert folded(lost) == dict.fromkeys(("a.weight", "b.weight"), Folded("network_norm", (("eps", 1e-7),), "", ()))
    explicit = folded(apply(checkpoint({"a.weight": weight})).checkpoint.content, scheme=WeightNorm(p=1.0))
    assert explicit["a.weight"].applied == Applied(WeightNorm(p=1.0), (0,))


@pytest.mark.parametrize("to", [None, "parametrization"])
def test_what_wnconvert_split_is_not_recorded_as_folded(to: str | None) -> None:
    source = Checkpoint({"a.weight": torch.randn(3, 3)}, "torch_zip", {"mine": "kept"})
    applied = apply(source, WeightNorm()).checkpoint
    applied = migrate(applied, to).checkpoint if to else applied  # type: ignore[arg-type]
    assert fold(applied).checkpoint.metadata == {"mine": "kept"}


def test_a_record_may_be_left_out() -> None:
    hook = checkpoint(nn.utils.weight_norm(nn.Linear(3, 3)).state_dict())
    assert fold(hook, record=False).checkpoint.metadata == {}
    once = fold(hook).checkpoint
    again = fold(apply(once, "weight_norm").checkpoint, record=False).checkpoint
    assert again.metadata == {}


def test_the_record_outlives_what_is_done_to_the_weights() -> None:
    once = fold(checkpoint(nn.utils.weight_norm(nn.Linear(3, 4)).state_dict())).checkpoint
    for scheme in (None, "weight_norm", "centered_weight_norm"):
        applied = apply(once, scheme).checkpoint
        assert manifest.read(applied.metadata).keys() == {"weight"}
        back = fold(applied).checkpoint
        assert back.metadata == once.metadata
        assert difference(once.content, back.content) is None


def test_a_manifest_without_folded_weights_is_what_it_was_before_they_were_recorded() -> None:
    text = apply(checkpoint({"a.weight": torch.randn(3, 3)})).checkpoint.metadata["wnconvert"]
    assert json.loads(text).keys() == {"version", "schemes", "weights"}
    more = {**json.loads(text), "later": {"a": 1}}
    assert manifest.read({"wnconvert": json.dumps(more)}) == manifest.read({"wnconvert": text})


WHOLE = {
    "version": 1,
    "schemes": [{"name": "weight_norm", "options": {"p": 2.0, "log_g": False}}],
    "weights": {"a.weight": [0, [0]]},
    "ways": [{"scheme": "weight_norm", "options": {"p": 2}, "layout": "", "kept": [0]}],
    "folded": {"b.weight": 0},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"schemes": [{"name": "weight_norm", "options": {"log_g": "no"}}]},
        {"schemes": [{"name": "weight_norm", "options": {"p": "2"}}]},
        {"schemes": [{"name": "weight_norm", "options": {"q": 2}}]},
        {"weights": {"a.weight": [0, [0, 0]]}},
        {"weights": {"a.weight": [0, [-1]]}},
        {"weights": {"a.weight": [0, [True]]}},
        {"weights": {"a.weight": [0, 0]}},
        {"weights": {"a.weight": [7, [0]]}},
        {"ways": 3},
        {"ways": [{"scheme": 1, "options": {}, "layout": "", "kept": [0]}]},
        {"ways": [{"scheme": "weight_norm", "options": 3, "layout": "", "kept": [0]}]},
        {"ways": [{"scheme": "weight_norm", "options": {}, "layout": "", "kept": "0"}]},
        {"ways": [{"scheme": "weight_norm", "options": {}, "layout": ""}]},
        {"folded": {"b.weight": 7}},
        {"folded": ["b.weight"]},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_refused_in_one_line(changes: dict[str, object]) -> None:
    assert manifest.read_folded({"wnconvert": json.dumps(WHOLE)})["b.weight"].applied == Applied(WeightNorm(), (0,))
    with pytest.raises(CheckpointError, match="manifest of the file cannot be understood") as caught:
        manifest.read({"wnconvert": json.dumps({**WHOLE, **changes})})
    assert "\n" not in str(caught.value)


NAMES = st.sampled_from(
    ["a.weight", "b.weight", "weight_norm", "spectral_norm", "p", "scheme", "kept", "parametrization"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
KEPT = st.lists(st.integers(0, 3), max_size=3) | st.none() | ANYTHING
WAYS = st.fixed_dictionaries(
    {
        "scheme": NAMES,
        "options": st.dictionaries(NAMES, st.floats() | ANYTHING, max_size=2),
        "layout": NAMES,
        "kept": KEPT,
    }
)


@settings(max_examples=CASES, deadline=None)
@given(
    schemes=st.lists(st.fixed_dictionaries({"name": NAMES, "options": ANYTHING}), max_size=2) | ANYTHING,
    weights=st.dictionaries(NAMES, st.tuples(st.integers(0, 1), KEPT), max_size=2) | ANYTHING,
    ways=st.lists(WAYS, max_size=2) | ANYTHING,
    folded=st.dictionaries(NAMES, st.integers(0, 1), max_size=2) | ANYTHING,
)
@example(WHOLE["schemes"], {"a.weight": [0, [2]]}, WHOLE["ways"], {"b.weight": 0})
def test_fuzzed_manifests_never_fail_otherwise_than_on_purpose(
    schemes: object, weights: object, ways: object, folded: object
) -> None:
    text = json.dumps({"version": 1, "schemes": schemes, "weights": weights, "ways": ways, "folded": folded})
    content = {"a.weight_g": torch.ones(3, 1), "a.weight_v": torch.ones(3, 2), "b.weight": torch.ones(3, 2)}
    source = Checkpoint(content, "torch_zip", {"wnconvert": text})
    messages = []
    for convert in (apply, fold, inspect):
        try:
            convert(source)
        except WnconvertError as error:
            messages.append(str(error))
    assert "\n" not in "".join(messages)


def test_a_deeply_nested_manifest_is_refused() -> None:
    with pytest.raises(CheckpointError, match="manifest"):
        manifest.read({"wnconvert": "[" * 100_000})


@pytest.mark.parametrize(
    "way", [{"scheme": "unheard_of"}, {"options": {"p": 7}}, {"options": {"q": 1}}, {"kept": None}]
)
def test_what_was_folded_from_something_unknown_cannot_be_applied_but_is_read(way: dict[str, object]) -> None:
    data = {**WHOLE, "ways": [{**WHOLE["ways"][0], **way}]}  # type: ignore[index, dict-item]
    assert manifest.read_folded({"wnconvert": json.dumps(data)})["b.weight"].applied is None


def test_inspecting_tells_folded_weights_from_others_with_torch_and_without(tmp_path: Path) -> None:
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    once = fold(checkpoint(net.state_dict(), "safetensors")).checkpoint
    path = tmp_path / "x.safetensors"
    save(once, path, source=tmp_path / "none")
    (summary,) = inspect(load(path))
    assert summary.folded == {"weight_norm": 1}
    assert len(summary.plain) == 2
    seen = inspect_without_torch(path)
    assert seen is not None
    assert seen[0] == summary
    (again,) = inspect(apply(once).checkpoint)
    assert (again.folded, again.recorded) == ({}, 1)


@pytest.mark.parametrize("value", [False, True])
def test_options_are_read_by_their_former_names(value: bool) -> None:
    source = checkpoint({"a.weight": torch.randn(4, 3)})
    split = apply(source, WeightNorm(written_out=value)).checkpoint
    was = {**split.metadata, manifest.KEY: split.metadata[manifest.KEY].replace("written_out", "twice_differentiable")}
    assert was != split.metadata
    assert manifest.read(was) == manifest.read(split.metadata)
    record = fold(checkpoint(nn.utils.weight_norm(nn.Linear(3, 4)).state_dict())).checkpoint.metadata
    old = {manifest.KEY: record[manifest.KEY].replace("written_out", "twice_differentiable")}
    assert old != record
    assert manifest.read_folded(old)["weight"].applied == Applied(WeightNorm(), (0,))
