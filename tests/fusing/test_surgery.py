"""Edits of modules around a fuse."""

from __future__ import annotations

import torch
from torch import nn

from wnconvert.fusing.surgery import drop_module, forget, put, replace_module, rest_as_module


def test_a_module_is_replaced_wherever_it_stands():
    norm = nn.BatchNorm1d(3).eval()
    root = nn.Sequential(norm, nn.Sequential(norm))
    replace_module(root, norm, rest_as_module(norm))
    assert type(root[0]) is nn.Identity
    assert root[1][0] is root[0]
    assert not root[0].training


def test_a_module_that_nothing_calls_is_dropped():
    root = nn.Sequential(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    drop_module(root, "0.0", root[0][0])
    assert list(root.state_dict()) == []
    assert [name for name, _ in root.named_modules()] == ["", "0", "0.1"]


def test_tensors_of_a_module():
    norm = nn.BatchNorm1d(3)
    forget(norm, "running_mean", "weight", "nothing")
    assert list(norm.state_dict()) == ["bias", "running_var", "num_batches_tracked"]
    norm.bias.requires_grad_(False)
    put(norm, "bias", torch.ones(3), norm.bias)
    put(norm, "running_var", torch.ones(3), norm.running_var)
    assert isinstance(norm.bias, nn.Parameter)
    assert not norm.bias.requires_grad
    assert "running_var" in dict(norm.named_buffers())
