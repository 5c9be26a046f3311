"""Two processes: DDP, per-layer fully_shard, and a model that is sent to another process."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.circumstances.twins import KINDS, WEIGHTED, assert_same, batches, loss, ours, read, renamed, theirs, train
from tests.processes import START_METHOD

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo"
)

Results = dict[str, Any]


def ddp(model: nn.Module, rank: int, **options: bool) -> Any:
    """Train under DDP, each process with inputs of its own, with one step that accumulates."""
    wrapped = nn.parallel.DistributedDataParallel(model, **options)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1, foreach=False)
    losses = train(wrapped, batches(3, seed=rank), optimizer)
    optimizer.zero_grad()
    first, second = batches(2, seed=10 + rank)
    with wrapped.no_sync():
        loss(wrapped, first).backward()
    loss(wrapped, second).backward()
    optimizer.step()
    return losses, read(model)


def sharded(model: nn.Module, rank: int) -> Any:
    """Train with every layer sharded, and the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for path in (*WEIGHTED, ""):
        fully_shard(model.get_submodule(path), mesh=mesh)
    losses = train(model, batches(3, seed=rank))
    output = model.eval()(next(batches(1)))
    full = {name: tensor.full_tensor() for name, tensor in model.named_parameters()}  # type: ignore[attr-defined]
    return losses, output.detach(), full


SCENARIOS: dict[str, Callable[[nn.Module, int], Any]] = {
    "ddp": ddp,
    "ddp with views": lambda model, rank: ddp(model, rank, gradient_as_bucket_view=True),
    "ddp with a static graph": lambda model, rank: ddp(model, rank, static_graph=True),
    "ddp that looks for what is unused": lambda model, rank: ddp(model, rank, find_unused_parameters=True),
    "fully_shard": sharded,
}


def work(rank: int, port: int, folder: str, sent: nn.Module) -> None:
    """Run every scenario in one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results: Results = {}
    with torch.no_grad():
        results["sent"] = sent(next(batches(1)))
    for kind in KINDS:
        for name, scenario in SCENARIOS.items():
            for make in (theirs, ours):
                torch.manual_seed(0)
                try:
                    results[f"{name} {kind} {make.__name__}"] = scenario(make(kind), rank)
                except Exception as error:  # noqa: BLE001 - each test says what failed in its own scenario
                    results[f"{name} {kind} {make.__name__}"] = f"{type(error).__name__}: {error}"
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sent() -> nn.Module:
    return ours("weight_norm").eval()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, sent: nn.Module) -> list[Results]:
    """Start two processes once for all tests: importing torch takes longer than all that they do."""
    folder = tmp_path_factory.mktemp("results")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, str(folder), copy.deepcopy(sent))
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method=START_METHOD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_it_trains_as_torchs_own(results: list[Results], name: str, kind: str) -> None:
    for found in results:
        expected, actual = found[f"{name} {kind} theirs"], found[f"{name} {kind} ours"]
        assert not isinstance(expected, str), expected
        assert not isinstance(actual, str), actual
        assert_same(actual[:2], expected[:2], kind)
        for each, tensor in expected[2].items() if len(expected) > 2 else ():
            assert_same(actual[2][renamed(each, kind)], tensor, kind, each)


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_end_with_the_same_weights(results: list[Results], kind: str) -> None:
    one, other = (found[f"ddp {kind} ours"] for found in results)
    assert not torch.equal(one[0][0], other[0][0])
    assert_same(one[1], other[1], "weight_norm")


def test_a_model_can_be_sent_to_another_process(results: list[Results], sent: nn.Module) -> None:
    with torch.no_grad():
        expected: Tensor = sent(next(batches(1)))
    assert all(torch.equal(found["sent"], expected) for found in results)
