"""FoldPass on expressions that nobody here made, and on our own after a life of their own."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.snapshot import Snapshot, assert_same_outputs, graph_listing, outputs_of
from tests.helpers import DTYPES, variant_id, variants
from tests.models import WEIGHTS, build
from tests.weights.nets import One, X, folded, param
from wnconvert import ApplyPass, FoldPass, Selection
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits

each = pytest.mark.parametrize("scheme", variants(), ids=variant_id)


def test_a_product_of_two_parameters_is_folded():
    _, report = folded(One(lambda self, x: F.linear(x, self.b @ self.a), b=param(5, 2), a=param(2, 3)), X)
    assert report.converted[0].keys == ("b", "a")
    assert report.converted[0].scheme == "expression"


def test_an_expression_tied_to_two_sites_is_folded_once():
    def forward(self, x):
        weight = F.normalize(self.w)
        return F.linear(F.linear(x, weight), weight.t())

    model, report = folded(One(forward, w=param(5, 3)), X)
    assert [(entry.fqn, entry.op) for entry in report.converted] == [("w", "linear")]
    assert len([node for node in model.graph.nodes if node.op == "get_attr"]) == 1


def test_an_expression_used_elsewhere_too_is_folded_there_too():
    def forward(self, x):
        weight = F.normalize(self.w)
        return F.linear(x, weight) + weight.sum()

    model, _ = folded(One(forward, w=param(5, 3)), X)
    assert all(node.target is not F.normalize for node in model.graph.nodes)


def test_a_raw_parameter_used_elsewhere_stays_beside_the_folded_one():
    def forward(self, x):
        return F.linear(x, F.normalize(self.w)) + self.w.square().sum()

    model, report = folded(One(forward, w=param(5, 3)), X)
    assert report.converted[0].fqn == "w_folded"
    assert list(model.state_dict()) == ["w", "w_folded"]


def test_two_expressions_of_one_parameter_are_two_weights():
    def forward(self, x):
        return F.linear(x, F.normalize(self.w)) + F.linear(x, self.w * 2)

    model, report = folded(One(forward, w=param(5, 3)), X)
    assert [entry.fqn for entry in report.converted] == ["w", "w_2"]
    assert list(model.state_dict()) == ["w", "w_2"]


def test_two_expressions_of_one_parameter_that_stays_are_two_weights():
    def forward(self, x):
        return F.linear(x, F.normalize(self.w)) + F.linear(x, self.w * 2) + self.w.sum()

    model, _ = folded(One(forward, w=param(5, 3)), X)
    assert list(model.state_dict()) == ["w", "w_folded", "w_folded_2"]


def test_two_products_in_one_module_are_two_weights():
    def forward(self, x):
        return F.linear(x, self.b @ self.a) * F.linear(x, self.d @ self.c)

    contents = {"b": param(5, 2), "a": param(2, 3), "d": param(5, 2), "c": param(2, 3)}
    model, _ = folded(One(forward, **contents), X)
    assert list(model.state_dict()) == ["weight", "weight_2"]


def test_an_expression_inside_an_expression():
    def forward(self, x):
        inner = F.normalize(self.w)
        return F.linear(F.linear(x, inner), inner @ self.c)

    model, report = folded(One(forward, w=param(3, 3), c=param(3, 3)), X)
    assert len(report.converted) == 2
    assert not FoldPass().call(model).modified


RANDOM = {
    "dropout": lambda self: F.dropout(self.w, 0.5, True),
    "noise": lambda self: self.w + torch.randn_like(self.w) * 0.1,
}


@pytest.mark.parametrize("case", RANDOM)
def test_a_random_expression_is_skipped_and_the_generator_left_alone(case):
    model = trace(One(lambda self, x: F.linear(x, RANDOM[case](self)), w=param(5, 3)))
    before, state = Snapshot(model), torch.get_rng_state()
    result = FoldPass().call(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not result.modified
    assert [(entry.fqn, entry.already) for entry in result.report.skipped] == [("w", False)]
    assert "random" in result.report.skipped[0].reason
    before.assert_same(model)


def test_plain_weights_are_already_folded():
    model = trace(build("conv")[0])
    before = Snapshot(model)
    result = FoldPass().call(model)
    assert not result.modified
    assert tuple(entry.fqn for entry in result.report.skipped) == WEIGHTS["conv"]
    assert all(entry.already and entry.reason == "already a plain weight" for entry in result.report.skipped)
    before.assert_same(model)


def test_a_weight_that_depends_on_the_input_is_no_weight():
    model = trace(One(lambda self, x: F.linear(x, self.w * x.mean()), w=param(5, 3)))
    before = Snapshot(model)
    assert not FoldPass().call(model).modified
    before.assert_same(model)


# our own


@each
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_a_fold_has_the_bits_of_the_forward_after_training(scheme, dtype):
    model, inputs = build("functional", dtype)
    model = trace(model)
    ApplyPass(scheme, dim=0).call(model)
    model.train()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.add_(noise.to(dtype) * 0.05)
        model(*inputs)
    model.eval()
    expected = outputs_of(model, inputs)
    report = FoldPass().call(model).report
    assert [entry.fqn for entry in report.converted] == list(WEIGHTS["functional"])
    assert {entry.scheme for entry in report.converted} == {scheme.name}
    assert_same_outputs(outputs_of(model, inputs), expected)


@each
def test_a_fold_of_a_pickle_has_graph_keys_and_bits_of_the_plain_model(scheme):
    for name in ("conv", "vocoder"):
        model, inputs = build(name)
        model = trace(model)
        before, listing = Snapshot(model), graph_listing(model, names=False)
        ApplyPass(scheme, dim=0).call(model)
        expected = outputs_of(model, inputs)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        restored = torch.load(file, weights_only=False)
        FoldPass().call(restored)
        assert_same_outputs(outputs_of(restored, inputs), expected)
        assert graph_listing(restored, names=False) == listing
        if scheme.preserving:
            before.assert_same(restored, graph=False)


@each
def test_a_fold_of_a_deepcopy_leaves_the_original_alone(scheme):
    model, inputs = build("transformer")
    model = trace(model)
    ApplyPass(scheme, dim=0).call(model)
    before = Snapshot(model)
    copied = copy.deepcopy(model)
    FoldPass().call(copied)
    assert copied.head.weight is copied.tokens.weight
    before.assert_same(model)
    assert_same_outputs(outputs_of(copied, inputs), outputs_of(model, inputs))


@each
def test_a_fold_in_training_mode_takes_the_values_of_evaluation(scheme):
    model, inputs = build("conv")
    model = trace(model)
    ApplyPass(scheme, dim=0).call(model)
    expected = outputs_of(model, inputs)
    model.train()
    FoldPass().call(model)
    assert all(module.training for module in model.modules())
    assert_same_outputs(outputs_of(model.eval(), inputs), expected)


@each
def test_a_folded_model_trains(scheme):
    model, inputs = build("conv")
    model = trace(model)
    ApplyPass(scheme, dim=0).call(model)
    FoldPass().call(model)
    model.train()(*inputs).square().sum().backward()
    for name in WEIGHTS["conv"]:
        parameter = model.get_parameter(name)
        assert parameter.is_leaf
        assert parameter.grad.count_nonzero() > 0


@pytest.mark.parametrize("scheme", ["weight_norm", "network_norm", "spectral_norm"])
def test_a_selection_folds_some_and_says_why_not_the_others(scheme):
    model, inputs = build("conv")
    model = trace(model)
    ApplyPass(scheme).call(model)
    expected = outputs_of(model, inputs)
    report = FoldPass(selection=Selection(include=("stem", "head.weight"))).call(model).report
    assert [entry.fqn for entry in report.converted] == ["stem.weight", "head.weight"]
    assert {entry.fqn: entry.reason for entry in report.skipped} == {
        "conv1.weight": "not included by 'stem', 'head.weight'",
        "down.weight": "not included by 'stem', 'head.weight'",
    }
    assert_same_outputs(outputs_of(model, inputs), expected)
    assert len(FoldPass().call(model).report.converted) == 2
    assert_same_outputs(outputs_of(model, inputs), expected)


@each
def test_frozen_weights_stay_frozen_and_others_train(scheme):
    model = trace(build("conv")[0])
    model.get_parameter("conv1.weight").requires_grad_(False)
    before = Snapshot(model)
    ApplyPass(scheme, dim=0).call(model)
    FoldPass().call(model)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    if scheme.preserving:
        before.assert_same(model)


def test_several_schemes_in_one_model_are_folded_together():
    model = trace(build("conv")[0])
    before = Snapshot(model)
    for scheme, name in [("weight_norm", "stem"), ("sigma_reparam", "conv1"), ("network_norm", "down")]:
        ApplyPass(scheme, selection=Selection(include=(name,))).call(model)
    report = FoldPass().call(model).report
    assert [entry.scheme for entry in report.converted] == ["weight_norm", "sigma_reparam", "network_norm"]
    before.assert_same(model)


def test_torchs_own_weight_norm_layout_is_folded_to_its_bits():
    torch.manual_seed(0)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            reference = nn.utils.weight_norm(nn.Linear(3, 5))
            self.weight_g, self.weight_v = reference.weight_g, reference.weight_v

        def forward(self, x):
            return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))

    model = Own()
    expected = torch._weight_norm(model.weight_v, model.weight_g, 0).detach()
    traced, report = folded(model, X)
    assert report.converted[0].scheme == "weight_norm"
    assert same_bits(traced.weight, expected)


@pytest.mark.parametrize("expression", [lambda w: w[:1].expand(5, 3), lambda w: (w * 2)[:1].expand(5, 3)])
def test_a_value_that_no_weight_can_hold_is_skipped(expression):
    model = trace(One(lambda self, x: F.linear(x, torch.sinc(self.w)) + x @ expression(self.w).t(), w=param(5, 3)))
    expected = outputs_of(model, (X,))
    report = FoldPass().call(model).report
    assert all("overlap" in entry.reason for entry in report.skipped)
    assert len(report.skipped) == len(report.converted) == 1
    assert_same_outputs(outputs_of(model, (X,)), expected)


def test_a_value_keeps_its_strides():
    model, report = folded(One(lambda self, x: x @ torch.sinc(self.w.t()), w=param(5, 3)), X)
    assert model.get_parameter(report.converted[0].fqn).stride() == (1, 3)


def test_two_views_of_one_value_share_no_memory():
    def forward(self, x):
        value = torch.sinc(self.w)
        return F.linear(x, value) + x @ value.flatten().expand(3, 15).contiguous()[:, :5]

    model, _ = folded(One(forward, w=param(5, 3)), X)
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == len(list(model.parameters()))


def test_folding_in_inference_mode_gives_normal_tensors():
    model = trace(One(lambda self, x: F.linear(x, F.normalize(self.w)), w=param(5, 3)))
    with torch.inference_mode():
        FoldPass().call(model)
    assert not model.w.is_inference()
    model(X).sum().backward()


def test_applying_in_inference_mode_gives_normal_tensors():
    model = trace(nn.Sequential(nn.Linear(3, 3)))
    with torch.inference_mode():
        ApplyPass().call(model)
    assert not any(p.is_inference() for p in model.parameters())
    model(X).sum().backward()


def test_what_is_computed_from_distributed_tensors_is_skipped(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = trace(One(lambda self, x: F.linear(x, F.normalize(self.w)), w=param(5, 3)))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        distribute_module(model, init_device_mesh("cpu", (1,)))
        (skipped,) = FoldPass().call(model).report.skipped
    finally:
        torch.distributed.destroy_process_group()
    assert "sharded" in skipped.reason


def test_a_parameter_itself_is_not_folded():
    model = trace(One(lambda self, x: F.linear(x, self.w.float()), w=param(5, 3)))
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert [entry.reason for entry in report.skipped] == ["it is a parameter itself, and is not computed"]
    before.assert_same(model)


@pytest.mark.parametrize("compose", [lambda w: w, F.normalize], ids=["plain", "computed"])
def test_what_keeps_gradients_away_stays(compose):
    model = One(lambda self, x: F.linear(x, compose(self.w).detach()) + F.linear(x, compose(self.w)), w=param(5, 3))
    graph_module = trace(model)
    ApplyPass().call(graph_module)
    FoldPass().call(graph_module)
    x = torch.randn(2, 3)
    assert torch.equal(graph_module(x), model(x))
    assert [node.target for node in graph_module.graph.nodes].count("detach") == 1
