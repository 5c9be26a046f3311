"""In which form a model holds its weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

import wnconvert
from tests.loading.conftest import FORMS, SPECTRAL
from wnconvert.checkpoint.layout import Layout
from wnconvert.loading.forms import held_by
from wnconvert.scheme import Scheme

WEIGHTS = ["0.weight", "3.weight", "4.weight"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_every_form_is_seen_with_scheme_and_dims(form):
    held = held_by(FORMS[form](0))
    prefix = "module." if form == "wrapped" else ""
    assert [each.fqn for each in held.forms] == [prefix + name for name in WEIGHTS]
    assert held.parts == {key for key in held.entries if not key.endswith("bias") and key[len(prefix)] != "1"}
    for each in held.forms:
        assert each.keys[each.lead] in held.tensors
        assert isinstance(each.by, Layout if form in ("hook", "parametrization", "wrapped") else Scheme)
    if form in ("hook", "parametrization", "wrapped"):
        assert [each.kept for each in held.forms] == [(0,), (1,), ()]


@pytest.mark.parametrize("api", SPECTRAL)
def test_the_live_module_says_which_dim_a_spectral_norm_keeps(api):
    norm = spectral_norm if api == "hook" else parametrizations.spectral_norm
    for dim in (0, 1):
        (form,) = held_by(norm(nn.Linear(4, 4), dim=dim)).forms  # square, and never run
        assert (form.scheme, form.kept) == ("spectral_norm", (dim,))


def test_what_other_code_composes_is_only_known_by_its_keys():
    class Doubled(nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return one * other

        def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones_like(weight[:, :1]), weight

    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Doubled())
    (form,) = held_by(layer).forms
    assert (form.fqn, form.by) == ("weight", None)
    stacked = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 2)))
    (form,) = held_by(stacked).forms
    assert form.by is None
    graph = wnconvert.apply(nn.Sequential(nn.Linear(3, 2)), wnconvert.WeightNorm(p=1), how="graph").model
    (form,) = held_by(copy.deepcopy(graph)).forms
    assert form.by == wnconvert.WeightNorm(p=1)
    (form,) = held_by(pickle.loads(pickle.dumps(weight_norm(nn.Linear(3, 2)).requires_grad_(False)))).forms
    assert isinstance(form.by, Layout)


def test_biases_and_recurrent_weights_are_seen_where_they_are_normalized():
    rnn = nn.LSTM(3, 4)
    for name in ("weight_hh_l0", "bias_hh_l0"):
        weight_norm(rnn, name)
    assert [(form.fqn, form.kept) for form in held_by(rnn).forms] == [("weight_hh_l0", (0,)), ("bias_hh_l0", (0,))]
