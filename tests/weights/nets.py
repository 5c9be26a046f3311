"""Models whose forward is given, and what the passes make of a model."""

from __future__ import annotations

import torch
from torch import nn

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from wnconvert import ApplyPass, FoldPass
from wnconvert.graph.copying import clone
from wnconvert.tracing.tracing import trace


class Net(nn.Module):
    """A model whose forward is given."""

    def __init__(self, forward, **contents):
        super().__init__()
        for name, value in contents.items():
            setattr(self, name, value)
        self._forward = forward

    def forward(self, *inputs):
        return self._forward(self, *inputs)


class One(Net):
    def forward(self, x):
        return self._forward(self, x)


class Two(Net):
    def forward(self, x, y):
        return self._forward(self, x, y)


def param(*shape, **kwargs):
    return nn.Parameter(torch.randn(*shape), **kwargs)


X = torch.randn(4, 3)


def reasons(model, copied=True):
    """Return the reason of each weight that ApplyPass skips, by name, and the names of those that it converts."""
    report = ApplyPass().call(trace(clone(model) if copied else model)).report
    return {entry.fqn: entry.reason for entry in report.skipped}, [entry.fqn for entry in report.converted]


def round_trip(model, *inputs, scheme="weight_norm"):
    """Apply and fold, and assert that bits, graph and contents are what they were; return the report of the first."""
    model = trace(model.eval())
    before, expected = Snapshot(model), outputs_of(model, inputs)
    report = ApplyPass(scheme, dim=0).call(model).report
    assert report.modified
    assert_same_outputs(outputs_of(model, inputs), expected)
    FoldPass().call(model)
    before.assert_same(model)
    return report


def folded(model, *inputs):
    """Fold a model, with bit-identical outputs, and return it with the report."""
    model = trace(model.eval())
    expected = outputs_of(model, inputs)
    result = FoldPass().call(model)
    assert_same_outputs(outputs_of(model, inputs), expected)
    return model, result.report
