"""Weights are found below permutations of their dims."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import symbolic_trace

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import sample
from tests.weights.rows import aten, drawn
from wnconvert import ApplyPass, FoldPass, find_weighted_ops
from wnconvert.graph import calls


class _Permuted(nn.Module):
    def __init__(self, permute, product, *shape):
        super().__init__()
        self.w = nn.Parameter(sample(*shape))
        self.permute, self.product = permute, product

    def forward(self, x):
        return self.product(x, self.permute(self.w))


PERMUTED = {
    "t method": (lambda w: w.t(), torch.matmul, (5, 3), (0,)),
    "T": (lambda w: w.T, torch.matmul, (5, 3), (0,)),
    "mT": (lambda w: w.mT, torch.matmul, (5, 3), (0,)),
    "torch.t": (torch.t, torch.matmul, (5, 3), (0,)),
    "transpose": (lambda w: w.transpose(0, 1), torch.matmul, (5, 3), (0,)),
    "transpose by keyword": (lambda w: w.transpose(dim0=-1, dim1=0), torch.matmul, (5, 3), (0,)),
    "torch.transpose": (lambda w: torch.transpose(w, 1, 0), torch.matmul, (5, 3), (0,)),
    "swapaxes": (lambda w: w.swapaxes(0, 1), torch.matmul, (5, 3), (0,)),
    "swapdims": (lambda w: torch.swapdims(w, 0, 1), torch.matmul, (5, 3), (0,)),
    "permute": (lambda w: w.permute(1, 0), torch.matmul, (5, 3), (0,)),
    "permute by tuple": (lambda w: w.permute((1, 0)), torch.matmul, (5, 3), (0,)),
    "torch.permute by keyword": (lambda w: torch.permute(w, dims=(-1, 0)), torch.matmul, (5, 3), (0,)),
    "permute of three": (lambda w: w.permute(2, 0, 1), F.conv1d, (3, 2, 5), (2,)),
    "two steps": (lambda w: w.transpose(0, 2).permute(0, 2, 1), F.conv1d, (3, 2, 5), (2,)),
    "there and back": (lambda w: w.t().t(), F.linear, (5, 3), (0,)),
    "t into linear": (lambda w: w.t(), F.linear, (3, 5), (1,)),
    "aten.t": (lambda w: aten.t.default(w), torch.matmul, (5, 3), (0,)),
    "aten.transpose": (lambda w: aten.transpose.int(w, 0, 1), torch.matmul, (5, 3), (0,)),
    "aten.permute": (lambda w: aten.permute.default(w, [1, 0]), torch.matmul, (5, 3), (0,)),
    "aten.numpy_T": (lambda w: aten.numpy_T.default(w), torch.matmul, (5, 3), (0,)),
    "aten.mT": (lambda w: aten.mT.default(w), torch.matmul, (5, 3), (0,)),
}


@pytest.mark.parametrize("case", PERMUTED)
def test_a_permuted_weight_is_found_below_its_permutations(case):
    permute, product, shape, dims = PERMUTED[case]
    model = symbolic_trace(_Permuted(permute, product, *shape))
    x = drawn(2, 3, 6) if len(shape) == 3 else drawn(2, 3)
    (found,) = find_weighted_ops(model)
    assert (found.fqn, found.output_dims) == ("w", dims)
    before, expected = Snapshot(model), outputs_of(model, (x,))
    assert ApplyPass(dim="output").call(model).report.converted[0].dims == tuple(
        dim for dim in range(len(shape)) if dim not in dims
    )
    assert_same_outputs(outputs_of(model, (x,)), expected)
    FoldPass().call(model)
    before.assert_same(model)


def test_every_kind_of_permutation_is_tested():
    tested = set()
    for permute, product, shape, _ in PERMUTED.values():
        for node in symbolic_trace(_Permuted(permute, product, *shape)).graph.nodes:
            if calls.is_permutation(node):
                tested.add(node.target)
    untested = (set(calls._PERMUTATIONS) | set(calls._PERMUTATION_METHODS)) - tested
    # the functions and the methods of one name have one rule
    assert untested <= {torch.swapaxes, "swapdims"}
