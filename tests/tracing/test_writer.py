"""What a forward does on proxies becomes nodes, and what its graph would lose is seen in each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tracing.behaviour import assert_same
from tests.tracing.cases import Network, model_of
from tests.tracing.hazardous import CASES
from wnconvert.errors import TracingError
from wnconvert.tracing.tracing import trace


def test_nothing_of_a_trial_stays_in_the_graph() -> None:
    class Late(nn.Module):
        """It fails after it has read a parameter that others read too."""

        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.shared
            return x if x.sum() < 1e9 else -x

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = Late()

        def forward(self, x: Tensor) -> Tensor:
            return self.late(x) @ self.late.shared

    model, x = Reader(), torch.randn(2, 4)
    graph_module = trace(model)
    graph_module.graph.lint()
    ops = [node.op for node in graph_module.graph.nodes]
    assert ops == ["placeholder", "call_module", "get_attr", "call_function", "output"]
    assert torch.equal(graph_module(x), model(x))


@pytest.mark.parametrize("name", ["a condition", "randn", "a sum", "a counter", "isinstance", "no_grad"])
def test_a_hazard_that_a_forward_swallows_is_seen(name: str) -> None:
    inner = type(CASES[name].build())

    class Swallowing(inner):  # type: ignore[valid-type, misc]
        def forward(self, x):
            try:
                return inner.forward(self, x)
            except Exception:  # noqa: BLE001 - what models do
                return x * 0

    assert list(trace(nn.Sequential(Swallowing())).meta["opaque"]) == ["0"]
    with pytest.raises(TracingError):
        trace(Swallowing())


def test_an_update_that_loading_a_pickle_would_make_is_no_part_of_a_graph() -> None:
    def forward(self, x: Tensor):
        self.mean.mul_(0.9)
        return self.fc(x) + self.mean

    graph_module = assert_same(lambda: Network(model_of(forward)()))
    assert "which loading a pickle would do" in graph_module.meta["opaque"]["layers.0"]
