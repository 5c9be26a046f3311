"""What is kept for speed keeps no model alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.models import build
from wnconvert import ApplyPass, FoldPass
from wnconvert.tracing.tracing import trace
from wnconvert.weights import expansion


@pytest.fixture(autouse=True, scope="module")
def _only_what_is_new() -> Iterator[None]:
    """Let collections pass over all that stands already: it takes half a second to look at it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def convert(name: str, scheme: str) -> list[weakref.ref]:
    """Apply and fold a model that knows a large tensor in many ways, and return what must die with it."""
    model, _ = build(name)
    watched = [model, *model.parameters()]
    for module in model.modules():
        module.ballast = torch.ones(10)
        if module is not model:  # with one at the root there is no graph
            module.register_state_dict_pre_hook(lambda *args, kept=module.ballast: None)
        watched += [module, module.ballast]
    traced = trace(model)
    assert ApplyPass(scheme).call(traced).modified
    watched += [traced, *traced.parameters()]
    assert FoldPass().call(traced).modified
    return list(map(weakref.ref, (*watched, *traced.parameters())))


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


@pytest.mark.parametrize("scheme", ["weight_norm", "spectral_norm", "network_norm"])
@pytest.mark.parametrize("name", ["conv", "transformer", "vocoder"])
def test_a_converted_model_is_freed(name, scheme):
    references = convert(name, scheme)
    before = live_tensors()
    assert [each() for each in references if each() is not None] == []
    for _ in range(3):
        convert(name, scheme)
    assert live_tensors() == before


def test_a_class_that_was_looked_up_is_freed():
    def look() -> weakref.ref:
        class Local(nn.Linear):
            kept = torch.ones(3)

        assert expansion.rule_of_module(Local(3, 3)) is not None
        return weakref.ref(Local)

    reference = look()
    gc.collect()
    assert reference() is None
