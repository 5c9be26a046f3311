"""The models of transformers that carry weight norm, in either of torch's two spellings of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import wnconvert

transformers = pytest.importorskip("transformers")

from tests.zoo.check import Facts, assert_same, carries_normalization, evaluate  # noqa: E402 - needs transformers
from tests.zoo.transformers_models import FAMILIES, normalized  # noqa: E402

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
]

each_api = pytest.mark.parametrize("api", ["parametrization", "hook"])
each_family = pytest.mark.parametrize("family", ["wav2vec2", "vits", "encodec", "dac", "univnet", "mimi", "speecht5"])


def build(family: str, api: str, monkeypatch: pytest.MonkeyPatch):
    """Build a model in evaluation mode with its inputs; transformers takes the hooks where torch has nothing else."""
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        if api == "hook":
            patch.delattr(nn.utils.parametrizations, "weight_norm")
        model, inputs = normalized(FAMILIES[family])
    assert any(map(parametrize.is_parametrized, model.modules())) == (api == "parametrization")
    assert carries_normalization(model)
    return model.eval(), inputs


@each_api
@each_family
@torch.no_grad()
def test_the_folded_model_has_the_outputs_and_no_norm(family, api, monkeypatch):
    model, inputs = build(family, api, monkeypatch)
    expected = evaluate(model, inputs)
    before = Facts(model)
    folded = wnconvert.fold(model).model
    assert not carries_normalization(folded)
    assert type(folded) is type(model)
    assert_same(evaluate(folded, inputs), expected, "outputs")
    before.assert_same(model)
    assert_same(evaluate(model, inputs), expected, "outputs of the original")


@each_family
@torch.no_grad()
def test_both_spellings_fold_to_the_same_file(family, monkeypatch):
    parametrized, _ = build(family, "parametrization", monkeypatch)
    hooked, _ = build(family, "hook", monkeypatch)
    # torch's own loading knows the way from the older spelling to the newer, and from there the folded keys are alike
    parametrized.load_state_dict(hooked.state_dict())
    a, b = wnconvert.fold(parametrized).model.state_dict(), wnconvert.fold(hooked).model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@each_api
@pytest.mark.parametrize("family", ["dac", "univnet", "speecht5", "mimi"])
@torch.no_grad()
def test_the_folded_file_loads_into_a_model_that_was_never_normalized(family, api, monkeypatch):
    model, inputs = build(family, api, monkeypatch)
    plain = FAMILIES[family]()[0].eval()
    assert not carries_normalization(plain)
    plain.load_state_dict(wnconvert.fold(model).model.state_dict(), strict=True)
    assert_same(evaluate(plain, inputs), evaluate(model, inputs), "outputs")


@pytest.mark.parametrize("family", ["dac", "univnet", "speecht5"])
def test_transformers_cannot_remove_what_it_applied(family, monkeypatch):
    model, _ = build(family, "parametrization", monkeypatch)
    with pytest.raises(ValueError, match="weight_norm of 'weight' not found"):
        copy.deepcopy(model).remove_weight_norm()
    assert not carries_normalization(wnconvert.fold(model).model)


@torch.no_grad()
def test_a_folded_model_is_saved_and_loaded_by_transformers(tmp_path, monkeypatch):
    model, inputs = build("dac", "parametrization", monkeypatch)
    wnconvert.fold(model).model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert_same(evaluate(loaded, inputs), evaluate(model, inputs), "outputs")


@torch.no_grad()
def test_generation_works_on_a_converted_model():
    from tests.zoo.other_models import MODELS

    torch.manual_seed(0)
    model, (args, _) = MODELS["LlamaForCausalLM"]()
    model.eval()
    converted = wnconvert.apply(model).model
    assert isinstance(converted, transformers.LlamaForCausalLM)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(converted.generate(*args, **options), model.generate(*args, **options))
