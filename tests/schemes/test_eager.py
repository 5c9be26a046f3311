"""When nobody follows a computation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx import Graph, Proxy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import assert_same_bits, traced
from wnconvert.schemes._eager import computes_only, is_differentiated, is_seen_nonzero, less, times


def test_plain_tensors_compute_only():
    assert computes_only(torch.ones(2), torch.nn.Parameter(torch.ones(2)))


def test_proxies_and_subclasses_do_not():
    class Other(torch.Tensor):
        pass

    assert not computes_only(torch.ones(2), torch.ones(2).as_subclass(Other))
    assert not computes_only(Proxy(Graph().placeholder("x")))


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [FunctionMode, DispatchMode, forward_ad.dual_level])
def test_modes_follow(mode):
    with mode():
        assert not computes_only(torch.ones(2))
    assert computes_only(torch.ones(2))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_transformations_traces_and_compilers_follow():
    seen = []

    def look(x):
        seen.append(computes_only(torch.ones(2)))
        return x * 2

    torch.func.vmap(look)(torch.ones(2))
    torch.jit.trace(look, torch.ones(2), check_trace=False)
    assert seen == [False, False]

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x):
        return x + 1 if computes_only(x) else x - 1

    assert compiled(torch.zeros(())).item() == -1


def test_what_nobody_follows_takes_the_memory_of_its_first_operand():
    for function, expected in [(less, torch.tensor([0.5, 1.5])), (times, torch.tensor([0.5, 1.0]))]:
        x, y = torch.tensor([1.0, 2.0]), torch.tensor(0.5)
        found = function(x, y)
        assert_same_bits(found, expected)
        assert found is x


def test_what_is_differentiated_or_followed_does_not():
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    for function in (less, times):
        x = leaf * 1
        assert is_differentiated(x)
        assert function(x, torch.tensor(0.5)) is not x
        assert torch.equal(x, leaf)
        with torch.no_grad():
            assert not is_differentiated(x)
        graph = traced(
            lambda parts, function=function: function(parts[0]["a"], parts[0]["b"]), [{"a": leaf, "b": leaf}]
        )
        assert "_(" not in graph.code.replace("__", "")


def test_numbers_are_looked_at_where_nobody_follows():
    assert is_seen_nonzero(torch.tensor(2.0))
    assert is_seen_nonzero(torch.tensor(float("nan")))
    assert not is_seen_nonzero(torch.tensor(0.0))
    assert not is_seen_nonzero(torch.tensor(2.0, device="meta"))
    assert not is_seen_nonzero(Proxy(Graph().placeholder("x")))
    with FunctionMode():
        assert not is_seen_nonzero(torch.tensor(2.0))
