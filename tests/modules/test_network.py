"""Weights that are composed of what they all have in common, in place."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers import DTYPES, assert_close_in, bits_equal
from tests.modules.making import INDEX, Nested, Tower, converted, disturbed
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.modules.network import Network
from wnconvert.passes.apply import ApplyPass
from wnconvert.report import Report
from wnconvert.schemes.network_norm import NetworkNorm
from wnconvert.selection import Selection
from wnconvert.tracing.tracing import trace


def gradients(model: nn.Module, *args: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(*args).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    calls: list[int] = []
    gather = NetworkNorm.gather

    def counted(self: NetworkNorm, parts: object, specs: object) -> dict[str, Tensor]:
        calls.append(1)
        return gather(self, parts, specs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(NetworkNorm, "gather", counted)
        yield calls


def in_graph(model: nn.Module) -> nn.Module:
    graph_module = trace(model)
    ApplyPass("network_norm").call(graph_module)
    return graph_module


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_it_is_what_the_graph_is(dtype: torch.dtype) -> None:
    model = Tower().to(dtype)
    expected = model(INDEX)
    graph, live = in_graph(copy.deepcopy(model)), converted(copy.deepcopy(model))
    assert torch.equal(live(INDEX), expected)
    assert list(live.state_dict()) == list(graph.state_dict())
    assert all(bits_equal(live.state_dict()[key], value) for key, value in graph.state_dict().items())
    disturbed(graph), disturbed(live)
    assert torch.equal(live(INDEX), graph(INDEX))
    expected_gradients = gradients(graph, INDEX)
    for name, gradient in gradients(live, INDEX).items():
        # the tied weight is composed at each read, so that its gradients are summed at another place
        assert_close_in(dtype, gradient, expected_gradients[name], 8)


def test_fold_gives_the_model_back() -> None:
    model = Tower()
    folded = converted(copy.deepcopy(model))
    report = fold_in_place(folded, Selection())
    assert len(report.converted) == 7
    assert report.converted[0].keys == ("embed.weight_network_v", "network_g")
    assert list(folded.state_dict()) == list(model.state_dict())
    assert all(bits_equal(a, b) for a, b in zip(folded.state_dict().values(), model.state_dict().values(), strict=True))
    assert [type(module) for module in folded.modules()] == [type(module) for module in model.modules()]
    assert folded.head.weight is folded.embed.weight
    assert "__call__" not in vars(type(folded))


def test_frozen_weights_stay_frozen() -> None:
    model = Tower()
    model.blocks[0].requires_grad_(False)
    converted(model)
    assert not model.blocks[0][0].weight_network_v.requires_grad
    assert model.network_g.requires_grad
    fold_in_place(model, Selection())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        f"blocks.0.{index}.{kind}" for index in (0, 2) for kind in ("weight", "bias")
    }


def test_fold_of_a_trained_model_gives_its_weights() -> None:
    model = disturbed(converted(Tower()))
    expected = model(INDEX)
    fold_in_place(model, Selection())
    assert torch.equal(model(INDEX), expected)


def test_the_norm_is_computed_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted(Tower())
    with counting(monkeypatch) as calls:
        model(INDEX)
        assert len(calls) == 1
        _ = model.head.weight
        assert len(calls) == 2
        fold_in_place(model, Selection())
        assert len(calls) == 3


def test_reads_outside_of_a_call_see_what_is_there_now() -> None:
    model = converted(Tower())
    before = model.head.weight.clone()
    model(INDEX)
    with torch.no_grad():
        model.blocks[0][0].weight_network_v.mul_(3)
    assert not torch.equal(model.head.weight, before)
    assert model.head.weight.requires_grad
    assert torch.equal(model.blocks[0](torch.ones(4)), copy.deepcopy(model).blocks[0](torch.ones(4)))


def test_a_call_that_fails_leaves_nothing_behind() -> None:
    model = converted(Tower())
    with pytest.raises(IndexError):
        model(torch.tensor([9]))
    with torch.no_grad():
        model.blocks[0][0].weight_network_v.mul_(3)
    expected = copy.deepcopy(model).head.weight
    assert torch.equal(model.head.weight, expected)


def test_a_model_may_call_itself() -> None:
    model, x = Nested(), torch.ones(2, 3)
    expected = model(x)
    converted(model)
    assert torch.equal(model(x), expected)
    assert torch.isfinite(gradients(model, x)["network_g"])


class Modes(nn.Module):
    """Reads one weight without and with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.fc(x)
        with torch.enable_grad():
            return self.fc(x)


@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
def test_gradients_flow_where_they_flow_in_the_model(outside: type) -> None:
    model, x = converted(Modes()), torch.ones(2, 3)
    expected = gradients(model, x)
    with outside():
        result = model(x)
    model.zero_grad()
    result.square().sum().backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in model.named_parameters())
    with torch.inference_mode():
        assert torch.equal(Modes.forward(model, x), result)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(reentrant: bool) -> None:
    model = disturbed(converted(Tower()))
    expected, expected_gradients = model(INDEX), gradients(model, INDEX)
    model.reentrant = reentrant
    assert torch.equal(model(INDEX), expected)
    for name, gradient in gradients(model, INDEX).items():
        torch.testing.assert_close(gradient, expected_gradients[name])


def test_a_checkpointed_model_as_a_whole() -> None:
    model = disturbed(converted(Tower()))
    expected = gradients(model, INDEX)
    model.zero_grad()
    checkpoint(model, INDEX, use_reentrant=False).square().sum().backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in model.named_parameters())


def test_autocast_changes_no_norm() -> None:
    model, plain = converted(Tower()), Tower()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(INDEX), plain(INDEX))


def test_two_threads_do_not_see_each_other() -> None:
    model = disturbed(converted(Tower()))
    expected = gradients(model, INDEX)["network_g"]
    barrier, found = threading.Barrier(2), []

    def run() -> None:
        for _ in range(20):
            barrier.wait()
            loss = model(INDEX).square().sum()
            found.append(torch.autograd.grad(loss, model.network_g)[0])

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(torch.equal(gradient, expected) for gradient in found)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [True, False])
def test_it_compiles_whole(training: bool, backend: str) -> None:
    torch._dynamo.reset()
    model = disturbed(converted(Tower())).train(training)
    expected = gradients(model, INDEX)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert torch.equal(compiled(INDEX), model(INDEX))
    model.zero_grad()
    compiled(INDEX).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    disturbed(model)
    assert torch.equal(compiled(INDEX), model(INDEX))


# of torch 2.15's own compiler, for any input that is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_part_of_it() -> None:
    torch._dynamo.reset()
    model = disturbed(converted(Tower()))
    expected = gradients(model, INDEX)
    model.blocks[1].compile(fullgraph=True, backend="eager")
    for name, gradient in gradients(model, INDEX).items():
        torch.testing.assert_close(gradient, expected[name])


# Dynamo says that the norm is kept while the root runs; it is gone when the call ends
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize("strict", [True, False])
def test_it_exports(strict: bool) -> None:
    torch._dynamo.reset()
    model = disturbed(converted(Tower())).eval()
    program = torch.export.export(model, (INDEX,), strict=strict)
    assert torch.equal(program.module()(INDEX), model(INDEX))
    assert sum("linalg_vector_norm" in str(node.target) for node in program.graph.nodes) == 8


def test_functional_call_sees_the_parameters_it_is_given() -> None:
    model = converted(Tower())
    other = disturbed(copy.deepcopy(model))
    result = torch.func.functional_call(model, dict(other.named_parameters()), (INDEX,))
    assert torch.equal(result, other(INDEX))
    assert torch.equal(
        torch.func.functional_call(model.head, dict(other.head.named_parameters()), torch.ones(4)).sum()
        == model.head(torch.ones(4)).sum(),
        torch.tensor(False),
    )


def test_a_part_of_the_network_is_not_folded() -> None:
    model = converted(Tower())
    report = fold_in_place(model, Selection(exclude=("head",)))
    assert not report.converted
    assert {entry.reason for entry in report.skipped if entry.fqn != "embed.weight"} == {
        "network_norm composes it of all 7 weights; fold the whole model"
    }
    assert not fold_in_place(model.blocks, Selection()).converted


def test_in_an_opaque_region_it_is_skipped() -> None:
    model = Tower()
    report: Report = apply_in_place(model, NetworkNorm(), None, Selection(), {"blocks.0"})
    assert {entry.reason for entry in report.skipped} == {
        "network_norm takes all weights of a model together, and those of the graph are composed by its nodes"
    }


def test_the_cost_is_linear() -> None:
    """Counted in norms, not in seconds."""

    def norms(layers: int) -> int:
        model, count = converted(nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])), 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(torch.ones(1, 2))
            fold_in_place(model, Selection())
        for event in profile.key_averages():
            count += event.count if event.key == "aten::linalg_vector_norm" else 0
        return count

    assert (norms(10), norms(40)) == (22, 82)


def test_a_network_is_made_of_tensors_and_not_of_modules() -> None:
    model = converted(Tower())
    network = model.__dict__["_wnconvert"].network
    assert isinstance(network, Network)
    assert len(pickle.dumps(model.blocks[0])) < 3 * len(pickle.dumps(Tower()))
