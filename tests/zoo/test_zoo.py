"""Every model of the zoo, one test each: ``python -m pytest -m zoo``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

import wnconvert
from tests.zoo import timm_models, transformers_models
from tests.zoo.cases import SLOW, cases, is_slow
from tests.zoo.check import (
    Case,
    Facts,
    assert_accounted,
    assert_same,
    assert_same_tensors,
    check,
    compare_training,
    opaque_parts,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The bits of a product may depend on how many threads compute it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CASES = [pytest.param(case, id=str(case), marks=pytest.mark.slow if is_slow(case) else ()) for case in cases()]


@pytest.mark.zoo
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # those of the models' own packages
@pytest.mark.parametrize("case", CASES)
def test_a_model_of_the_zoo(case: Case):
    check(case)


# the check itself must see what it is there for


def test_the_check_sees_a_weight_that_is_not_in_the_report():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    report = wnconvert.apply(model).report
    assert_accounted(model, report)
    with pytest.raises(AssertionError, match=r"1 weights are not in the report: \['1.weight'\]"):
        assert_accounted(model, wnconvert.Report(report.converted[:1]))
    with pytest.raises(AssertionError, match="converted and skipped"):
        assert_accounted(
            model, report + wnconvert.Report(skipped=(wnconvert.Skipped("0.weight", "", wnconvert.Why.NOT_CHOSEN()),))
        )


def test_the_check_sees_other_outputs():
    x = torch.randn(3)
    assert_same({"a": (x, [1])}, {"a": (x.clone(), [1])}, "outputs")
    others = (x + 1e-7, [1]), (x, [2]), (x,), (x.double(), [1]), (torch.stack([x, x], 1)[:, 0], [1])
    for other in ({"a": each} for each in others):
        with pytest.raises(AssertionError, match="outputs"):
            assert_same(other, {"a": (x, [1])}, "outputs")


def test_the_check_sees_other_keys_and_bits():
    model, turned = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(AssertionError, match="other bits"):
        assert_same_tensors(turned, model)
    turned.load_state_dict(model.state_dict())
    assert_same_tensors(turned, model)
    turned[0]._parameters["weight"] = turned[0]._parameters.pop("weight")
    with pytest.raises(AssertionError, match="in their order"):
        assert_same_tensors(turned, model)


@pytest.mark.parametrize(
    "harm",
    [
        lambda model: setattr(model[0], "note", 1),
        lambda model: setattr(model[0], "in_features", 3),
        lambda model: model[0].weight.data.add_(1e-6),
        lambda model: model[0].weight.requires_grad_(False),
        lambda model: model[0].register_forward_pre_hook(lambda *_: None),
        lambda model: nn.utils.parametrizations.weight_norm(model[0]),
    ],
)
def test_the_check_sees_harm_to_the_original(harm):
    model = nn.Sequential(nn.Linear(2, 2))
    before = Facts(model)
    before.assert_same(model)
    harm(model)
    with pytest.raises(AssertionError, match="the original has other"):
        before.assert_same(model)


def test_the_check_names_what_a_graph_does_not_look_into():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert opaque_parts(wnconvert.apply(nn.Sequential(nn.Linear(2, 2), Deciding()), how="graph").model) == ["Deciding"]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(nn.functional.dropout(self.fc(x), 0.5, self.training))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda model: None, None),
        (lambda model: setattr(model.norm, "momentum", 0.2), "buffers after a step"),
        (lambda model: model.fc.bias.register_hook(lambda gradient: gradient * 1.01), "gradient of fc.bias"),
        (lambda model: model.fc.requires_grad_(False), "gradients of others"),
        (lambda model: setattr(model, "norm", nn.BatchNorm1d(4, eps=1e-2)), "outputs in training mode"),
        (lambda model: model.register_forward_pre_hook(_in_training), "outputs after the step"),
    ],
    ids=("none", "buffer", "gradient", "frozen", "output", "mode"),
)
def test_the_check_sees_another_training_step(harm, told):
    model = Counting()
    converted, report = wnconvert.apply(model)
    harm(converted)
    inputs = ((torch.randn(5, 4),), {})
    with pytest.raises(AssertionError, match=told) if told else contextlib.nullcontext():
        assert compare_training(model, converted, report, inputs) == ""


def _in_training(module, args):
    module.train()


def test_a_model_that_cannot_be_trained_is_told_apart():
    class Evaluated(nn.Sequential):
        def forward(self, x):
            if self.training:
                raise ValueError("give labels")
            return super().forward(x)

    model = Evaluated(nn.Linear(2, 2))
    converted, report = wnconvert.apply(model)
    assert compare_training(model, converted, report, ((torch.randn(1, 2),), {})) == "ValueError: give labels"


# the zoo is complete


@pytest.mark.zoo
@pytest.mark.oracle
def test_every_slow_case_is_one_of_the_zoo():
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    assert {case.family for case in cases()} >= SLOW


@pytest.mark.zoo
@pytest.mark.oracle
def test_every_family_of_timm_has_a_member():
    timm = pytest.importorskip("timm")
    assert set(timm.models.list_modules()) == set(timm_models.MEMBERS)


@pytest.mark.zoo
@pytest.mark.oracle
def test_every_model_of_transformers_that_uses_weight_norm_is_there():
    transformers = pytest.importorskip("transformers")
    files = (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
    users = {file.parent.name for file in files if "weight_norm(" in file.read_text(encoding="utf-8")}
    assert len(users) > 15
    assert users <= set(transformers_models.FAMILIES)
