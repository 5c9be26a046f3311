"""The fuse as a pass."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.infra.pass_manager import PassManager

import wnconvert
from tests.fusing.checking import stirred
from wnconvert import FoldPass, FusePass


def model() -> nn.Module:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3))
    return stirred(nn.Sequential(nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)), nn.ReLU(), conv))


def test_it_goes_with_others_in_a_pass_manager():
    normalized = stirred(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU()))
    graph_module, _ = wnconvert.apply(normalized, how="graph")
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    expected = normalized(x)
    fuse = FusePass()
    result = PassManager(passes=[FoldPass(), fuse])(graph_module)
    assert result.modified
    torch.testing.assert_close(result.graph_module(x), expected, rtol=1e-10, atol=1e-10)
    assert [entry.fusion for entry in fuse.report.fused] == ["batch_norm"]
    assert "1 fused" in str(fuse.report)


def test_it_says_whether_it_changed_anything():
    graph_module = symbolic_trace(stirred(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6))))
    _, modified = FusePass()(graph_module)
    assert modified
    _, modified = FusePass()(graph_module)
    assert not modified


def test_the_result_is_a_graph_module_like_any_other():
    graph_module = symbolic_trace(stirred(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6))))
    graph_module, _ = FusePass()(graph_module)
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    for again in (copy.deepcopy(graph_module), pickle.loads(pickle.dumps(graph_module))):
        assert torch.equal(again(x), graph_module(x))
    graph_module.graph.lint()


def test_a_fusion_that_is_not_there():
    with pytest.raises(wnconvert.UnknownNameError, match="unknown fusion 'batchnorm'"):
        FusePass(["batchnorm"])
