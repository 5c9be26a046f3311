"""Weights that a program reads inside of branches, loops and regions are named, whoever normalizes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.export import ExportedProgram
from torch.nn.utils.parametrizations import weight_norm

import wnconvert
from wnconvert.exported.holding import hold
from wnconvert.exported.inside import Inside, read_inside
from wnconvert.reasons import Why

X = torch.linspace(-1, 1, 12).view(3, 4)
PARTS = ("inner.parametrizations.weight.original0", "inner.parametrizations.weight.original1")


class Net(nn.Module):
    """One normalized layer, called by a function that is given it and the input."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.call = weight_norm(nn.Linear(4, 4)), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.inner, x)


def branch(inner: nn.Module, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: inner(x), lambda x: x - 1, (x,))


def branch_with_a_weight_of_outside(inner: nn.Module, x: Tensor) -> Tensor:
    weight = inner.weight
    return torch.cond(x.sum() > 0, lambda x: F.linear(x, weight), lambda x: x - 1, (x,))


def loop(inner: nn.Module, x: Tensor) -> Tensor:
    return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, inner(x)), (torch.tensor(0), x))[1]


def steps(inner: nn.Module, x: Tensor) -> Tensor:
    def step(carry: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        carry = inner(carry) + x
        return carry, carry.clone()

    return scan(step, torch.zeros(4), x)[1]


def without_gradients(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return inner(x)


def without_autocast(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return inner(x)


#: the kind of call that each makes
KINDS = {
    branch: "cond",
    branch_with_a_weight_of_outside: "cond",
    loop: "while_loop",
    steps: "scan",
    without_gradients: "wrap_with_set_grad_enabled",
    without_autocast: "wrap_with_autocast",
}


def exported(call: Callable[[nn.Module, Tensor], Tensor]) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of its own loops
        return torch.export.export(Net(call).eval(), (X,), strict=call is steps)


@pytest.mark.parametrize("call", KINDS, ids=lambda call: call.__name__)
def test_a_weight_is_named_with_its_parts_and_what_reads_it(call: Callable[[nn.Module, Tensor], Tensor]) -> None:
    program = exported(call)
    (found,) = read_inside(hold(program).module)
    assert (found.names, sorted(found.keys), found.kind) == (("inner.weight",), sorted(PARTS), KINDS[call])
    with pytest.raises(
        wnconvert.NothingToConvertError, match=rf"inner.weight: inside '\w+', a {KINDS[call]} "
    ) as caught:
        wnconvert.fold(program)
    (skipped,) = caught.value.report.skipped
    assert (skipped.fqn, sorted(skipped.keys), skipped.reason.why) == ("inner.weight", sorted(PARTS), Why.OPAQUE)
    assert skipped.missed


def test_a_plain_weight_is_named_without_parts_and_a_bias_not_at_all() -> None:
    plain = torch.export.export(wnconvert.fold(Net(branch)).model.eval(), (X,))
    (found,) = read_inside(hold(plain).module)
    assert found == Inside(("inner.weight",), (), "true_graph_0", "cond")


def test_what_is_computed_of_no_parameter_is_no_weight() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("positions", torch.arange(12.0).view(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            table = self.positions.sin()
            return torch.cond(x.sum() > 0, lambda x: x + table, lambda x: x - 1, (x,))

    assert list(read_inside(hold(torch.export.export(Table(), (X,))).module)) == []
