"""FoldPass on expressions that nobody here made, and on our own after a life of their own."""

from __future__ import annotations

import copy
import io
import operator
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Tracer

from tests.graph.snapshot import Snapshot, assert_same_outputs, graph_listing, outputs_of
from tests.helpers import DTYPES, variant_id, variants
from tests.models import WEIGHTS, build
from tests.weights.test_sites import One, X, param
from wnconvert import ApplyPass, FoldPass, Selection, TracingError
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits

each = pytest.mark.parametrize("scheme", variants(), ids=variant_id)


def folded(model, *inputs):
    """Fold a model, with bit-identical outputs, and return it with the report."""
    model = trace(model.eval())
    expected = outputs_of(model, inputs)
    result = FoldPass().call(model)
    assert_same_outputs(outputs_of(model, inputs), expected)
    return model, result.report


class StdConv2d(nn.Conv2d):
    """As in timm: batch norm over the weight, as a fast way to standardize it."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledStdConv2d(nn.Conv2d):
    """As in timm's normalizer-free networks: with a gain."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.7))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CosineHead(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


class DinoHead(nn.Module):
    """A bottleneck and a last layer with hand-written weight norm, its magnitude frozen at one."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(3, 4)
        self.weight_v = nn.Parameter(torch.randn(6, 4))
        self.weight_g = nn.Parameter(torch.ones(6, 1), requires_grad=False)

    def forward(self, x):
        x = F.normalize(self.mlp(x), dim=-1)
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class LoRA(nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.lora_a, self.lora_b = param(2, self.in_features), param(self.out_features, 2)

    def forward(self, x):
        return F.linear(x, self.weight + (self.lora_b @ self.lora_a) * 0.5, self.bias)


class DoRA(LoRA):
    def __init__(self, *args):
        super().__init__(*args)
        self.magnitude = param(self.out_features, 1)

    def forward(self, x):
        weight = self.weight + (self.lora_b @ self.lora_a) * 0.5
        return F.linear(x, self.magnitude * weight / weight.norm(p=2, dim=1, keepdim=True), self.bias)


FOREIGN = {
    "StdConv2d": (lambda: StdConv2d(3, 6, 3), (2, 3, 5, 5), ["0.weight", "0.bias"]),
    "ScaledStdConv2d": (lambda: ScaledStdConv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5), ["0.weight"]),
    "cosine head": (lambda: CosineHead(3, 5, bias=False), (4, 3), ["0.weight"]),
    "DINO head": (DinoHead, (4, 3), ["0.weight", "0.mlp.weight", "0.mlp.bias"]),
    "LoRA": (lambda: LoRA(3, 5), (4, 3), ["0.weight", "0.bias"]),
    "DoRA": (lambda: DoRA(3, 5), (4, 3), ["0.weight", "0.bias"]),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_an_expression_that_others_wrote_becomes_a_plain_weight(case):
    build_layer, shape, keys = FOREIGN[case]
    torch.manual_seed(0)
    # a leaf would not be traced into
    model, report = folded(nn.Sequential(build_layer(), nn.Identity()), torch.randn(shape))
    assert list(model.state_dict()) == keys
    assert len(report.converted) == 1
    # nothing is computed from parameters alone any more
    assert not FoldPass().call(model).modified


@pytest.mark.parametrize("case", FOREIGN)
def test_a_computed_weight_is_not_applied_to_but_named(case):
    build_layer, _, _ = FOREIGN[case]
    report = ApplyPass().call(trace(nn.Sequential(build_layer()))).report
    assert all("0.mlp" in entry.fqn for entry in report.converted)
    assert any(entry.already and "already computed by nodes" in entry.reason for entry in report.skipped)


def test_a_folded_expression_can_be_applied_to():
    model, _ = folded(nn.Sequential(StdConv2d(3, 6, 3)), x := torch.randn(2, 3, 5, 5))
    expected = outputs_of(model, (x,))
    assert ApplyPass().call(model).modified
    assert_same_outputs(outputs_of(model, (x,)), expected)


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


def test_a_module_that_is_called_twice_keeps_one_weight():
    layer = CosineHead(3, 3, bias=False)
    model, _ = folded(nn.Sequential(layer, nn.Identity(), layer), X)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert model.get_parameter("0.weight") is model.get_parameter("2.weight")


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


def test_an_expression_that_updates_a_buffer_is_skipped_and_the_buffer_left_alone():
    def forward(self, x):
        self.mean.mul_(0.9).add_(self.w.mean(1, keepdim=True), alpha=0.1)
        return F.linear(x, self.w - self.mean)

    model = One(forward, w=param(5, 3))
    model.register_buffer("mean", torch.ones(5, 1))
    model = traced_by_torch(model)
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert "changes 'mean' in place" in report.skipped[0].reason
    before.assert_same(model)


def test_running_statistics_are_an_update_of_a_buffer():
    def forward(self, x):
        return F.linear(x, F.batch_norm(self.w, self.mean, self.var, training=True))

    model = One(forward, w=param(5, 3))
    model.register_buffer("mean", torch.zeros(3))
    model.register_buffer("var", torch.ones(3))
    model = trace(model)
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert "in place" in report.skipped[0].reason
    before.assert_same(model)


def traced_by_torch(model):
    """Return a graph that ours refuses: it updates a buffer from buffers alone, which loading a pickle would do."""
    with pytest.raises(TracingError, match="from buffers alone"):
        trace(model)
    tracer = Tracer()
    tracer.proxy_buffer_attributes = True
    return GraphModule(model, tracer.trace(model))


def written(name, change):
    """Return a forward that changes ``self.<name>`` in a statement of its own, and then composes a weight."""

    def forward(self, x):
        change(getattr(self, name))
        return F.linear(x, F.normalize(self.w))

    return forward


CHANGES = {
    "method": lambda w: w.mul_(2),
    "data": lambda w: w.data.mul_(2),
    "detach": lambda w: w.detach().mul_(2),
    "view": lambda w: w.view(-1).add_(1),
    "two views": lambda w: w.t().reshape(3, 5).fill_(1),
    "row": lambda w: w[0].add_(1),
    "no conversion": lambda w: w.float().mul_(2),
    "positional inplace": lambda w: F.relu(w, True),
    "dropout that does nothing": lambda w: F.dropout(w, 0.5, False).mul_(2),
    "out": lambda w: torch.mul(w, 2, out=w.data),
    "expanded": lambda w: w.expand(5, 3).copy_(w),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_the_graph_changes_in_place_is_not_folded(case):
    model = trace(One(written("w", CHANGES[case]), w=nn.Parameter(torch.ones(5, 3), requires_grad=False)))
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert re.search("changes 'w' in place", report.skipped[0].reason)
    before.assert_same(model)


def test_augmented_assignments_to_views_are_changes_in_place():
    graph = torch.fx.Graph()
    x, w = graph.placeholder("x"), graph.get_attr("w")
    graph.call_function(operator.imul, (graph.call_function(operator.getitem, (w, 0)), 2))
    graph.call_function(torch.ops.aten.mul_.Tensor, (graph.call_function(torch.ops.aten.detach.default, (w,)), 2))
    graph.output(graph.call_function(F.linear, (x, graph.call_function(F.normalize, (w,)))))
    model = torch.fx.GraphModule(One(None, w=param(5, 3, requires_grad=False)), graph)
    assert [entry.reason for entry in FoldPass().call(model).report.skipped] == ["node 'imul' changes 'w' in place"]


def test_a_write_is_seen_beside_one_that_only_runs_in_training():
    model = trace(nn.Sequential(nn.Linear(3, 3)))
    ApplyPass("spectral_norm").call(model)
    first = next(node for node in model.graph.nodes if node.target == "0.weight_u")
    for place in (model.graph.inserting_before(first), model.graph.inserting_after(first.next)):
        with place:
            model.graph.call_method("mul_", (model.graph.get_attr("0.weight_u"), 2))
        assert not FoldPass().call(model).modified
        model.graph.erase_node(next(node for node in model.graph.nodes if node.target == "mul_"))
    assert FoldPass().call(model).modified


def test_what_a_factory_draws_is_not_folded():
    graph = torch.fx.Graph()
    x, w = graph.placeholder("x"), graph.get_attr("w")
    noise = graph.call_function(torch.randn, (5, 3))
    graph.output(graph.call_function(F.linear, (x, graph.call_function(torch.add, (w, noise)))))
    model = torch.fx.GraphModule(One(None, w=param(5, 3)), graph)
    (skipped,) = FoldPass().call(model).report.skipped
    assert (skipped.fqn, skipped.already) == ("w", False)
    assert "random" in skipped.reason


def test_what_the_graph_changes_under_another_name_is_not_folded():
    model = One(written("other", lambda w: w.mul_(2)), w=param(5, 3, requires_grad=False))
    model.register_buffer("other", model.w.detach()[1:])
    model = traced_by_torch(model)
    assert not FoldPass().call(model).modified


def after(self, x):
    w = F.normalize(self.w)
    y = F.linear(x, w)
    w.mul_(2)
    return y + F.linear(x, w)


def before_the_end(self, x):
    w = self.w * 2
    w.view(-1).mul_(3)
    return F.linear(x, F.normalize(w))


def of_one_of_two(self, x):
    common = self.w * 2
    return F.linear(x, common.mul_(3)) + F.linear(x, common + 1)


def seen_by_another(self, x):
    common = self.w * 2
    y = x * common.sum()
    return F.linear(y, common.mul_(3)) + common.sum()


WRITTEN_TO = {
    "after its use": after,
    "before its end": before_the_end,
    "in another expression": of_one_of_two,
    "seen by another": seen_by_another,
}


@pytest.mark.parametrize("case", WRITTEN_TO)
def test_an_expression_that_is_written_to_is_not_folded(case):
    model = trace(One(WRITTEN_TO[case], w=param(5, 3)).eval())
    before, expected = Snapshot(model), outputs_of(model, (X,))
    report = FoldPass().call(model).report
    assert not report.modified
    assert all("in place" in entry.reason for entry in report.skipped)
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, (X,)), expected)


def test_an_expression_that_writes_to_what_is_its_own_is_folded():
    def forward(self, x):
        w = (self.w * 2).add_(1)
        return F.linear(x, w.abs_())

    folded(One(forward, w=param(5, 3)), X)


def test_a_leaf_that_the_graph_changes_is_seen_by_every_expression_that_reads_it():
    def forward(self, x):
        scale = self.s
        y = F.linear(x, self.a * scale) + F.linear(x, self.b * scale)
        self.s.data.mul_(2)
        return y

    model = trace(One(forward, a=param(5, 3), b=param(5, 3), s=param(1)))
    assert not FoldPass().call(model).modified


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
    assert "DTensor" in skipped.reason


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
