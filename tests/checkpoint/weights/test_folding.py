"""`wnconvert.checkpoint.fold` on the layouts of other software."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import checkpoint
from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.test_projects import PROJECTS, build, state_in, trained
from wnconvert.checkpoint import apply, difference, find_state_dicts, fold
from wnconvert.checkpoint.comparing.comparison import verify
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.layout import preset
from wnconvert.errors import NothingToConvertError
from wnconvert.selection import Selection, WeightedOp


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@torch.no_grad()
@pytest.mark.parametrize("api", ["hook", "parametrization"])
@pytest.mark.parametrize("name", PROJECTS)
def test_a_file_of_any_project_is_folded_to_the_plain_model(name: str, api: str) -> None:
    model, source, x = trained(name, api)
    folded = fold(source)
    plain = build(PROJECTS[name][0], "plain", seed=1).eval()
    plain.load_state_dict(state_in(folded.checkpoint.content, plain), strict=True)
    assert torch.equal(plain(x), model(x))
    assert folded.report.skipped == ()
    assert verify(source, folded.checkpoint).equal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_file_of_wnconvert_folds_back_after_a_migration_too(dtype: torch.dtype) -> None:
    source = checkpoint({"model": nn.Sequential(nn.Conv1d(3, 4, 5), nn.Linear(4, 4)).to(dtype).state_dict(), "step": 1})
    applied = apply(source).checkpoint
    migrated = migrate(applied, "parametrization").checkpoint
    assert verify(applied, migrated).equal
    back = fold(migrated).checkpoint
    assert difference(source.content, back.content, ordered=False) is None
    assert back.metadata == source.metadata


def test_what_stays_ambiguous_is_refused_until_the_user_says() -> None:
    state = checkpoint(nn.utils.spectral_norm(nn.Linear(4, 4)).state_dict())
    with pytest.raises(NothingToConvertError, match="do not show the kept dim"):
        fold(state)
    assert "weight" in fold(state, dim=0).checkpoint.content
    gain = checkpoint({"c.weight": torch.randn(4, 3, 3, 3), "c.gain": torch.ones(4, 1, 1, 1)})
    with pytest.raises(NothingToConvertError, match="name the preset"):
        fold(gain)
    assert list(fold(gain, presets=[preset("nfnet")]).checkpoint.content) == ["c.weight"]


def test_the_rest_of_a_file_is_as_it_was() -> None:
    module = parametrizations.weight_norm(nn.Linear(3, 4))
    others = {"steps": 3, "list": [torch.ones(2), "a"], 7: None}
    content = {"model": module.state_dict(), **others}
    folded = fold(checkpoint(content)).checkpoint.content
    assert difference(others, {key: folded[key] for key in others}) is None
    assert list(folded) == list(content)
    assert list(folded["model"]) == ["bias", "weight"]


def test_tied_weights_stay_tied_and_parameters_stay_parameters() -> None:
    state = dict(parametrizations.weight_norm(nn.Linear(3, 4)).named_parameters())
    content = {**{f"a.{key}": value for key, value in state.items()}, **{f"b.{k}": v for k, v in state.items()}}
    folded = fold(checkpoint(content))
    assert [entry.fqn for entry in folded.report.converted] == ["a.weight"]
    (found,) = find_state_dicts(folded.checkpoint.content)
    assert found.tensors["a.weight"] is found.tensors["b.weight"]
    assert isinstance(found.tensors["a.weight"], nn.Parameter)


@torch.no_grad()
def test_a_wrapper_goes_with_its_norm() -> None:
    wrapped = nn.Sequential(OrderedDict(conv=twins.SpectralNormBar(nn.Conv2d(3, 4, 3)), head=nn.Conv2d(4, 2, 1)))
    state = OrderedDict((key, value.clone()) for key, value in wrapped.state_dict().items())
    plain = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), head=nn.Conv2d(4, 2, 1)))
    plain.load_state_dict(fold(checkpoint(state)).checkpoint.content, strict=True)
    x = torch.randn(2, 3, 7, 7)
    assert torch.equal(plain(x), wrapped(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", [twins.BigGanConv, twins.ConvAws])
def test_state_beside_a_plain_weight_goes_with_the_norm(kind: type[nn.Conv2d]) -> None:
    module, plain, x = kind(3, 4, 3).eval(), nn.Conv2d(3, 4, 3), torch.randn(2, 3, 7, 7)
    plain.load_state_dict(fold(checkpoint(module.state_dict())).checkpoint.content, strict=True)
    assert torch.equal(plain(x), module(x))


def test_presets_are_chosen_by_the_selection_too() -> None:
    content = checkpoint({"a.weight": torch.randn(4, 3, 3, 3), "b.weight": torch.randn(4, 3, 3, 3)})
    named = preset("mmcv-conv-ws", only=".*")
    folded = fold(content, presets=[named], selection=Selection(include=("a",)))
    assert [entry.fqn for entry in folded.report.converted] == ["a.weight"]
    assert folded.report.converted[0].scheme == "weight_standardization"


def test_a_model_decides_what_is_a_weight() -> None:
    state = checkpoint(
        {
            f"{name}.{k}": v
            for name in "ab"
            for k, v in parametrizations.weight_norm(nn.Linear(3, 4)).state_dict().items()
        }
    )
    op = WeightedOp("a.weight", ("linear",), (4, 3), torch.float32, (0,))
    folded = fold(state, ops=[op])
    assert [(entry.fqn, entry.op) for entry in folded.report.converted] == [("a.weight", "linear")]
    assert [entry.reason for entry in folded.report.skipped] == ["is no weight of a weighted op of the model"]
    wrong = WeightedOp("a.weight", ("linear",), (5, 3), torch.float32, (0,))
    with pytest.raises(NothingToConvertError, match=r"has shape \(4, 3\), but \(5, 3\) in the model"):
        fold(state, ops=[wrong])


def test_a_scheme_that_is_asked_for_is_folded_in_either_interface() -> None:
    state = checkpoint(parametrizations.weight_norm(nn.Linear(3, 4)).state_dict())
    assert "weight" in fold(state, scheme="weight_norm").checkpoint.content
    with pytest.raises(NothingToConvertError, match="it is under weight_norm, not under spectral_norm"):
        fold(state, scheme="spectral_norm")
