"""Twenty steps of training end where those of torch's own parametrizations end, in one process and in two."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import cached
from torch.utils.checkpoint import checkpoint

import wnconvert
from tests.circumstances.twins import KINDS, WEIGHTED, Net, ours, renamed, theirs
from tests.processes import START_METHOD

STEPS = 20
#: whose weights are composed in modules, and whose in a graph
HOWS = ("module", "graph")

Ways = dict[str, Callable[[Any], Any]]


def graph(kind: str) -> Any:
    """Return the graph with the parts of torch's model."""
    model = wnconvert.apply(Net(), kind, how="graph", dim=0).model.train()
    model.load_state_dict({renamed(name, kind): each for name, each in theirs(kind).state_dict().items()})
    return model


MAKERS: dict[str, Callable[[str], Any]] = {"torch": theirs, "module": ours, "graph": graph}


def inputs(rank: int | None = None) -> Iterator[Tensor]:
    """Yield a batch for each step: that of one of two processes, or of both."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = torch.randn(8, 2, 6, 6, generator=generator)
        yield batch if rank is None else batch.chunk(2)[rank]


def descend(
    model: nn.Module, call: Callable[[Tensor], Tensor] | None = None, rank: int | None = None, scaled: bool = False
) -> dict[str, Tensor]:
    """Train, and return the parameters and buffers: far enough to have moved, near enough not to amplify rounding."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.5, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5, enabled=scaled)
    for x in inputs(rank):
        optimizer.zero_grad()
        loss = (model if call is None else call)(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert not scaled or scaler.get_scale() > 1024
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    whole = {name: x.detach().full_tensor() if hasattr(x, "full_tensor") else x.detach() for name, x in named.items()}
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in whole.items()}


def with_amp(model: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return model(x)

    return call


def compiled(model: nn.Module, backend: str) -> dict[str, Tensor]:
    torch._dynamo.reset()
    return descend(model, torch.compile(model, backend=backend))


ALONE: Ways = {
    "eager": descend,
    "compiled": lambda model: compiled(model, "aot_eager"),
    "checkpointed": lambda model: descend_checkpointed(model, model),
}


def assert_arrived(found: Any, expected: dict[str, Tensor], kind: str) -> None:
    assert not isinstance(found, str), found
    assert {*found} == {renamed(name, kind) for name in expected}
    start = theirs(kind).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[renamed(name, kind)], tensor, msg=lambda text, name=name: f"{name}: {text}")
    moved = [
        (expected[name] - start[name]).abs().max()
        for name in expected
        if "original1" in name or "weight.original" in name
    ]
    assert min(moved) > 1e-3


def composing_once(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compose each weight once a forward, as a graph does; a layer that is called twice then steps its state once."""

    def call(x: Tensor) -> Tensor:
        with cached():
            return model(x)

    return call


def once_if(how: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    return composing_once(model) if how == "graph" else model


def descend_checkpointed(
    model: nn.Module, call: Callable[[Tensor], Tensor], rank: int | None = None
) -> dict[str, Tensor]:
    return descend(model, lambda x: checkpoint(call, x, use_reentrant=False), rank)


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str, bool], dict[str, Tensor]]:
    """Where torch's own end in one process: by kind, what is compared with it, and whether it computes regions again.

    With that the state of spectral norm takes a step in the second forward, too.
    """
    found = {}
    for kind, how in product(KINDS, HOWS):
        found[kind, how, False] = descend(model := theirs(kind), once_if(how, model))
        found[kind, how, True] = descend_checkpointed(model := theirs(kind), once_if(how, model))
    return found


@pytest.mark.parametrize("way", ALONE)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_one_process(expected: dict[Any, Any], kind: str, how: str, way: str) -> None:
    assert_arrived(ALONE[way](MAKERS[how](kind)), expected[kind, how, way == "checkpointed"], kind)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_mixed_precision_and_scaled_gradients(kind: str, how: str, dtype: torch.dtype) -> None:
    their, mine = theirs(kind), MAKERS[how](kind)
    target = descend(their, with_amp(once_if(how, their), dtype), scaled=True)
    assert_arrived(descend(mine, with_amp(mine, dtype), scaled=True), target, kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_by_torchs_default(expected: dict[Any, Any], kind: str, how: str) -> None:
    """It computes what is cheap again in the backward, also from buffers that the forward has written to."""
    assert_arrived(compiled(MAKERS[how](kind), "inductor"), expected[kind, how, False], kind)


def ddp(model: nn.Module, **options: bool) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, **options)


def shard(model: Any, **options: Any) -> Any:
    """Shard every layer, and the root, over both processes; of a graph the root alone, which calls no layers."""
    from torch.distributed.fsdp import fully_shard

    for path in WEIGHTED if not isinstance(model, torch.fx.GraphModule) else ():
        fully_shard(model.get_submodule(path), **options)
    return fully_shard(model, **options)


def mixed(model: Any) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))


def from_meta(model: nn.Module) -> Any:
    """Shard the model without its data, and load that."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    state = model.state_dict()
    empty = shard(copy.deepcopy(model).to("meta")).to_empty(device="cpu")
    set_model_state_dict(empty, state, options=StateDictOptions(full_state_dict=True))
    return empty


def compiled_too(model: nn.Module, rank: int) -> dict[str, Tensor]:
    torch._dynamo.reset()
    return descend(model, torch.compile(model, backend="aot_eager"), rank)


def scaled(model: nn.Module, rank: int, how: str = "module") -> dict[str, Tensor]:
    return descend(model, with_amp(once_if(how, model), torch.bfloat16), rank, scaled=True)


#: what ends where torch's own ends in one process, of a batch of both
TOGETHER: dict[str, Callable[[nn.Module, int], dict[str, Tensor]]] = {
    "ddp": lambda model, rank: descend(ddp(model), rank=rank),
    "ddp, static graph": lambda model, rank: descend(ddp(model, static_graph=True), rank=rank),
    "ddp, compiled": lambda model, rank: compiled_too(ddp(model), rank),
    "ddp, checkpointed": lambda model, rank: descend_checkpointed(*[ddp(model)] * 2, rank),
    "sharded": lambda model, rank: descend(shard(model), rank=rank),
    "sharded, from meta": lambda model, rank: descend(from_meta(model), rank=rank),
    "sharded, compiled": lambda model, rank: compiled_too(shard(model), rank),
    "sharded, checkpointed": lambda model, rank: descend_checkpointed(*[shard(model)] * 2, rank),
}
#: what ends where torch's own does in two processes, for each half of a batch is rounded by itself
ROUNDED: dict[str, Callable[[nn.Module, int, str], dict[str, Tensor]]] = {
    "ddp, scaled": lambda model, rank, how: scaled(ddp(model), rank, how),
    "sharded, scaled": lambda model, rank, how: scaled(shard(model), rank, how),
}
#: what is also tried with graphs: the others do not look at the model
WITH_GRAPHS = ("ddp", "ddp, compiled", "sharded", "ddp, scaled")
CASES = [
    *((kind, "module", name) for kind in KINDS for name in (*TOGETHER, *ROUNDED)),
    *product(KINDS, ["graph"], WITH_GRAPHS),
]


def by_hand(kind: str, how: str) -> dict[str, Tensor]:
    """Do in one process what `mixed` does in two: parts and inputs cast, gradients averaged in float32."""
    twins = [MAKERS[how](kind) for _ in range(2)]
    optimizers = [torch.optim.SGD(twin.parameters(), 0.02, momentum=0.5, foreach=False) for twin in twins]
    for x in inputs():
        for twin, half in zip(twins, x.chunk(2), strict=True):
            twin.zero_grad()
            cast = {name: parameter.bfloat16() for name, parameter in twin.named_parameters()}
            functional_call(twin, cast, half.bfloat16()).float().square().mean().backward()
        for one, other in zip(*(twin.parameters() for twin in twins), strict=True):
            one.grad = other.grad = (one.grad + other.grad) / 2
        for optimizer in optimizers:
            optimizer.step()
    return {name: x.detach() for name, x in (*twins[0].named_parameters(), *twins[0].named_buffers())}


def work(rank: int, port: int, folder: str) -> None:
    """Train in every way in one of two processes, each with half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results: dict[Any, Any] = {}

    def attempt(key: tuple[str, ...], way: Callable[..., dict[str, Tensor]], *given: Any) -> None:
        try:
            results[key] = way(*given)
        except Exception as error:  # noqa: BLE001 - each test says what failed in its own way
            results[key] = f"{type(error).__name__}: {error}"

    for kind, how, name in CASES:
        if name in TOGETHER:
            attempt((kind, how, name), TOGETHER[name], MAKERS[how](kind), rank)
        else:
            attempt((kind, how, name), ROUNDED[name], MAKERS[how](kind), rank, "module")
            attempt((kind, how, name, "torch"), ROUNDED[name], theirs(kind), rank, how)
    for kind, (how, make) in product(KINDS, MAKERS.items()):
        attempt((kind, how, "mixed"), lambda model: descend(mixed(model), rank=rank), make(kind))
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def in_two_processes(test: Any) -> Any:
    """Leave a test out where there is no gloo."""
    there = dist.is_available() and dist.is_gloo_available()
    return pytest.mark.slow(pytest.mark.skipif(not there, reason="torch is built without gloo")(test))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """Start two processes once for all tests: importing torch takes longer than all that they do."""
    folder = tmp_path_factory.mktemp("results")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(work, (port, str(folder)), nprocs=2, start_method=START_METHOD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@in_two_processes
@pytest.mark.parametrize(("kind", "how", "name"), CASES)
def test_in_two_processes(results: Any, expected: dict[Any, Any], kind: str, how: str, name: str) -> None:
    for found in results:
        alone = expected[kind, how, "checkpointed" in name]
        target = alone if name in TOGETHER else found[kind, how, name, "torch"]
        assert not isinstance(target, str), target
        assert_arrived(found[kind, how, name], target, kind)


@in_two_processes
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_sharded_in_mixed_precision(results: Any, kind: str, how: str) -> None:
    target = by_hand(kind, how)
    for found in results:
        assert not isinstance(found[kind, how, "mixed"], str), found[kind, how, "mixed"]
        assert {*found[kind, how, "mixed"]} == {*target}
        assert all(torch.equal(found[kind, how, "mixed"][name], tensor) for name, tensor in target.items())


@in_two_processes
def test_torchs_own_in_mixed_precision(results: Any) -> None:
    for found in results:
        assert_arrived(found["weight_norm", "module", "mixed"], found["weight_norm", "torch", "mixed"], "weight_norm")
        # whose vectors are buffers, which stay as they are
        assert found["spectral_norm", "torch", "mixed"].startswith(
            "RuntimeError: addmv input tensors must have the same"
        )
