"""The passes among other passes, in torch.fx's own manager."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch.fx.passes.shape_prop import ShapeProp

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.models import WEIGHTS, build
from wnconvert import ApplyPass, FoldPass
from wnconvert.tracing.tracing import trace


class ReluToGelu(PassBase):
    """A third party's pass."""

    def call(self, graph_module):
        changed = [node for node in graph_module.graph.nodes if node.target is F.relu]
        for node in changed:
            node.target, node.kwargs = F.gelu, {}
        graph_module.recompile()
        return PassResult(graph_module, bool(changed))


def test_a_result_unpacks_and_carries_the_report():
    pass_ = ApplyPass()
    model = trace(build("conv")[0])
    result = pass_.call(model)
    graph_module, modified = result
    assert graph_module is result.graph_module is model
    assert modified is result.modified is True
    assert result.report is pass_.report
    assert tuple(entry.fqn for entry in result.report.converted) == WEIGHTS["conv"]


def test_a_pass_can_be_called():
    model = trace(build("conv")[0])
    assert ApplyPass()(model).modified
    assert FoldPass()(model).modified


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_passes_work_beside_a_third_partys(first):
    model, inputs = build("conv")
    expected_model = trace(build("conv")[0])
    ReluToGelu().call(expected_model)
    expected = outputs_of(expected_model, inputs)
    apply_pass = ApplyPass()
    passes = [apply_pass, ReluToGelu()] if first else [ReluToGelu(), apply_pass]
    result = PassManager(passes=passes)(trace(model))
    assert result.modified
    assert len(apply_pass.report.converted) == 4
    assert_same_outputs(outputs_of(result.graph_module, inputs), expected)


def test_apply_and_fold_with_another_pass_between_them():
    model, _ = build("conv")
    plain = trace(build("conv")[0])
    ReluToGelu().call(plain)
    before = Snapshot(plain)
    apply_pass, fold_pass = ApplyPass("sigma_reparam"), FoldPass()
    result = PassManager(passes=[apply_pass, ReluToGelu(), fold_pass])(trace(model))
    before.assert_same(result.graph_module)
    assert [len(p.report.converted) for p in (apply_pass, fold_pass)] == [4, 4]


def test_modified_is_truthful():
    model = trace(build("conv")[0])
    manager = PassManager(passes=[FoldPass()])
    assert not manager(model).modified
    assert PassManager(passes=[ApplyPass()])(model).modified
    assert not PassManager(passes=[ApplyPass()])(model).modified
    assert manager(model).modified


def test_a_manager_may_repeat_its_passes_until_nothing_changes():
    model = trace(build("functional")[0])
    apply_pass = ApplyPass()
    PassManager(passes=[apply_pass], steps=3)(model)
    assert not apply_pass.report.converted
    assert all(entry.already for entry in apply_pass.report.skipped)
    assert "w_in_v" in model.state_dict()


def test_a_new_call_makes_a_new_report():
    pass_ = ApplyPass()
    first = pass_.call(trace(build("conv")[0])).report
    second = pass_.call(trace(build("functional")[0])).report
    assert pass_.report is second is not first
    assert tuple(entry.fqn for entry in second.converted) == WEIGHTS["functional"]


def test_shapes_can_be_propagated_through_a_converted_graph():
    model, inputs = build("conv")
    traced = trace(model)
    ApplyPass("spectral_norm").call(traced)
    ShapeProp(traced).propagate(*inputs)
    shapes = {node.name: node.meta["tensor_meta"].shape for node in traced.graph.nodes if "tensor_meta" in node.meta}
    assert shapes["head"] == torch.Size([4, 5])
    assert FoldPass().call(traced).modified


def test_a_graph_passes_torchs_own_checks():
    for name in ("conv", "transformer", "functional"):
        model = trace(build(name)[0])
        ApplyPass("network_norm").call(model)
        model.graph.lint()
        FoldPass().call(model)
        model.graph.lint()


def test_the_passes_leave_the_garbage_collector_to_the_process(monkeypatch):
    for name in ("disable", "enable", "freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *args: pytest.fail("another thread could see it"))
    model = trace(build("conv")[0])
    assert ApplyPass()(model).modified
    assert FoldPass()(model).modified
