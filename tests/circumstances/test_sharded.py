"""Two processes that hold one model: converted before it is sharded, and after; and what becomes of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnconvert
from tests.processes import START_METHOD
from wnconvert.checkpoint import load_into
from wnconvert.training.groups import parameter_groups
from wnconvert.training.monitor.measuring import MEASURES
from wnconvert.training.monitor.monitoring import Monitor
from wnconvert.training.projecting import Projection

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo"
)

WAY_OUT = "load a full state dict into the plain model, and convert that"
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
#: of one scheme each: by torch's kernel, with state, with a mean
SCHEMES = ("weight_norm", "spectral_norm", "weight_standardization")


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def applied(scheme: Any = "weight_norm", **options: Any) -> Any:
    return wnconvert.apply(plain(), scheme, dim=0, **options).model


def parametrized() -> nn.Sequential:
    model = plain()
    for index in (0, 2):
        parametrizations.weight_norm(model[index])
    return model


def shard(model: Any, layers: bool = True, **options: Any) -> Any:
    """Shard every layer, and the root, over both processes."""
    from torch.distributed.fsdp import fully_shard

    for module in model.children() if layers else ():
        if isinstance(module, nn.Linear):
            fully_shard(module, **options)
    return fully_shard(model, **options)


def distributed(model: Any) -> Any:
    """Make all parameters distributed tensors, by which both processes hold all of each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    return distribute_module(model, init_device_mesh("cpu", (2,)))


def columns(model: Any) -> Any:
    """Split the rows of the first weight over both processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    return parallelize_module(model, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(output_layouts=Replicate())})


def rows(model: Any) -> Any:
    """Split the columns of the second weight, as torch does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

    return parallelize_module(model, init_device_mesh("cpu", (2,)), {"2": RowwiseParallel()})


def step(model: Any) -> Tensor:
    """Train one step, and return the output before it."""
    output: Tensor = model(X)
    output.square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.1, foreach=False).step()
    return output.detach()


def full(model: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load(model: Any, state: dict[str, Any], **options: bool) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, **options))


def trained(model: Any) -> Any:
    """Return the outputs of two steps, and the full state dict after them, which the first process gets."""
    outputs = [step(model), step(model)]
    return outputs, full(model)


def projected(model: Any, projection: Projection | None = None) -> Any:
    """Train two steps with groups of parameters, and project after each."""
    optimizer = torch.optim.SGD(parameter_groups(model, weight_decay=0.1, lr=0.1, lr_g=0.2), foreach=False)
    optimizer.register_step_post_hook(projection or Projection(model))
    outputs = []
    for _ in range(2):
        optimizer.zero_grad()
        output = model(X)
        output.square().mean().backward()
        optimizer.step()
        outputs.append(output.detach())
    return outputs, full(model)


def projected_as_ever() -> Any:
    """Shard a model that has a projection already."""
    model = applied().train()
    projection = Projection(model)
    return projected(shard(model), projection)


def monitored(model: Any) -> list[tuple[Any, ...]]:
    """Train two steps, and return what a monitor records, whatever wraps the model."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    with Monitor(model, optimizer=optimizer, every=1) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
    return [tuple(getattr(record, measure) for measure in MEASURES) for record in monitor.records]


def from_meta(broadcast: bool) -> Tensor:
    """Convert and shard a model that has no data yet, and load it."""
    with torch.device("meta"):
        empty = plain()
    model = shard(wnconvert.apply(empty, dim=0).model)
    model.to_empty(device="cpu")
    state = applied().state_dict() if not broadcast or dist.get_rank() == 0 else {}
    load(model, state, broadcast_from_rank0=broadcast)
    output: Tensor = model(X)
    return output.detach()


def in_bfloat16(model: Any) -> Tensor:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    output: Tensor = shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))(X)
    return output.detach()


def partly(inplace: bool) -> list[list[str]]:
    """Fold a model of which one part is sharded."""
    model = nn.ModuleDict({"sharded": shard(applied()), "plain": applied(), "torch's": parametrized()})
    report = wnconvert.fold(model, inplace=inplace).report
    return [[each.fqn for each in report.converted], [f"{each.fqn}: {each.reason}" for each in report.skipped]]


def normalized() -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)).eval()


def mixed() -> nn.Module:
    model = normalized()
    distributed(model[1])
    return model


def into_sharded(folder: Path) -> None:
    path = folder / f"plain{dist.get_rank()}.pt"
    torch.save(plain().state_dict(), path)
    load_into(shard(applied()), path)


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    **{f"train {each}": lambda _, each=each: trained(shard(applied(each).train())) for each in SCHEMES},
    "train the root alone": lambda _: trained(shard(applied().train(), layers=False)),
    "train a graph": lambda _: trained(shard(applied(how="graph").train(), layers=False)),
    "train columns": lambda _: trained(columns(applied(wnconvert.WeightNorm(written_out=True)).train())),
    **{f"project {each}": lambda _, each=each: projected(shard(applied(each).train())) for each in SCHEMES[:2]},
    "project what is sharded later": lambda _: projected_as_ever(),
    "project behind DDP": lambda _: projected(nn.parallel.DistributedDataParallel(applied().train())),
    **{f"monitor {each}": lambda _, each=each: monitored(shard(applied(each).train())) for each in SCHEMES},
    "monitor behind DDP": lambda _: monitored(nn.parallel.DistributedDataParallel(applied().train())),
    "meta": lambda _: from_meta(False),
    "meta, loaded by one": lambda _: from_meta(True),
    "bfloat16": lambda _: in_bfloat16(applied()),
    "bfloat16 torch": lambda _: in_bfloat16(parametrized()),
    "whole tensor": lambda _: shard(wnconvert.apply(plain(), dim=None).model),
    "a graph by its layers": lambda _: shard(applied(how="graph"))(X),
    "columns": lambda _: columns(applied())(X).detach(),
    "rows": lambda _: rows(applied()),
    "rows of torch's": lambda _: rows(parametrized()),
    "find": lambda _: [each.fqn for each in wnconvert.find_weighted_ops(shard(plain()))],
    "check": lambda _: {each.topic for each in wnconvert.check(shard(applied()))},
    "load": into_sharded,
    "cached": lambda _: wnconvert.cached(shard(applied())).__enter__(),
    "cached behind DDP": lambda _: wnconvert.cached(nn.parallel.DistributedDataParallel(applied())).__enter__(),
    "apply": lambda _: wnconvert.apply(shard(plain())),
    "apply in place": lambda _: wnconvert.apply(shard(plain()), inplace=True),
    "apply to distributed": lambda _: wnconvert.apply(distributed(plain())),
    "fold": lambda _: wnconvert.fold(shard(applied())),
    "fold in place": lambda _: wnconvert.fold(shard(applied()), inplace=True),
    "fold a graph": lambda _: wnconvert.fold(shard(applied(how="graph"), layers=False)),
    "fold a graph in place": lambda _: wnconvert.fold(shard(applied(how="graph"), layers=False), inplace=True),
    "fold torch's": lambda _: wnconvert.fold(shard(parametrized())),
    "fold torch's in place": lambda _: wnconvert.fold(shard(parametrized()), inplace=True),
    "fold distributed": lambda _: wnconvert.fold(distributed(applied())),
    "fold a distributed graph": lambda _: wnconvert.fold(distributed(applied(how="graph"))),
    "fold torch's distributed": lambda _: wnconvert.fold(distributed(parametrized())),
    "fold columns": lambda _: wnconvert.fold(columns(applied()), selection=wnconvert.Selection(include=("0.*",))),
    "fold a part": lambda _: partly(False),
    "fold a part in place": lambda _: partly(True),
    "fuse": lambda _: wnconvert.fuse(shard(normalized())),
    "fuse distributed": lambda _: wnconvert.fuse(mixed(), inplace=True),
}


def work(rank: int, port: int, folder: str) -> None:
    """Run every scenario in one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results = {}
    for name, scenario in SCENARIOS.items():
        try:
            results[name] = scenario(Path(folder))
        except Exception as error:  # noqa: BLE001 - each test says what is to come of its own scenario
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Start two processes once for all tests: importing torch takes longer than all that they do."""
    folder = tmp_path_factory.mktemp("results")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(work, (port, str(folder)), nprocs=2, start_method=START_METHOD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((f"train {each}", each) for each in SCHEMES),
        ("train the root alone", "weight_norm"),
        ("train a graph", "weight_norm"),
        ("train columns", wnconvert.WeightNorm(written_out=True)),
    ],
)
def test_it_trains_as_one_process_does_and_its_full_state_is_folded(
    results: list[dict[str, Any]], name: str, scheme: Any
) -> None:
    alone = applied(scheme).train()
    outputs = [step(alone), step(alone)]
    for found in results:
        assert not isinstance(found[name], str), found[name]
        # both have the same inputs, so that the mean of their gradients has the bits of each
        assert all(map(torch.equal, found[name][0], outputs))
    state = results[0][name][1]
    assert list(state) == list(alone.state_dict())
    assert all(map(torch.equal, state.values(), alone.state_dict().values()))
    again = applied(scheme)
    again.load_state_dict(state)
    folded = wnconvert.fold(again).model
    assert folded.state_dict().keys() == plain().state_dict().keys()
    assert torch.equal(folded(X), alone.eval()(X))


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("project ")])
def test_it_is_projected_and_decayed_as_in_one_process(results: list[dict[str, Any]], name: str) -> None:
    alone = projected(applied("spectral_norm" if "spectral" in name else "weight_norm").train())
    for found in results:
        assert not isinstance(found[name], str), found[name]
        assert all(map(torch.equal, found[name][0], alone[0]))
    assert all(map(torch.equal, results[0][name][1].values(), alone[1].values()))


@pytest.mark.parametrize("name", [*(f"monitor {scheme}" for scheme in SCHEMES), "monitor behind DDP"])
def test_a_monitor_sees_in_each_process_what_it_sees_in_one(results: list[dict[str, Any]], name: str) -> None:
    alone = monitored(applied("weight_norm" if "DDP" in name else name.split()[1]).train())
    assert len(alone) == 4
    assert all(found[name] == alone for found in results)


@pytest.mark.parametrize("name", ["meta", "meta, loaded by one"])
def test_a_model_without_data_is_converted_sharded_and_loaded(results: list[dict[str, Any]], name: str) -> None:
    assert all(torch.equal(found[name], plain()(X)) for found in results)


def test_columns_compute_the_bits_of_the_plain_model(results: list[dict[str, Any]]) -> None:
    assert all(torch.equal(found["columns"], plain()(X)) for found in results)


def test_mixed_precision_composes_of_cast_parts_as_torchs_own(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["bfloat16"].dtype == torch.bfloat16
        assert torch.equal(found["bfloat16"], found["bfloat16 torch"])
        assert torch.equal(found["bfloat16"], applied().bfloat16()(X.bfloat16()))


REFUSED = {
    **dict.fromkeys(["apply", "apply in place"], ("KindError", "apply to the plain model first, and wrap the result")),
    "apply to distributed": ("NothingToConvertError", "as a DTensor: apply to the plain model first, and shard the"),
    **dict.fromkeys(["fold", "fold in place", "fold a graph", "fold a graph in place"], ("KindError", WAY_OUT)),
    **dict.fromkeys(["fold torch's", "fold torch's in place", "fold a part"], ("KindError", WAY_OUT)),
    **dict.fromkeys(["fold distributed", "fold a distributed graph"], ("NothingToConvertError", WAY_OUT)),
    **dict.fromkeys(["fold torch's distributed", "fold columns"], ("NothingToConvertError", WAY_OUT)),
    **dict.fromkeys(["fuse", "fuse distributed"], ("KindError", WAY_OUT)),
    **dict.fromkeys(["cached", "cached behind DDP"], ("KindError", "is distributed: every backward must reach")),
    "load": ("KindError", "load into the model before it is sharded"),
    # torch's own words
    "whole tensor": ("ValueError", "Change weight_g to a 1D tensor"),
    "a graph by its layers": ("RuntimeError", "mixed torch.Tensor and DTensor"),
    "rows": ("RuntimeError", "found non-leaf tensor"),
    "rows of torch's": ("RuntimeError", "found non-leaf tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_sharded_is_refused_with_the_way_out(results: list[dict[str, Any]], name: str) -> None:
    kind, way_out = REFUSED[name]
    for found in results:
        assert isinstance(found[name], str), found[name]
        assert found[name].startswith(f"{kind}: ")
        assert way_out in found[name]
        assert "\n" not in found[name]


def test_what_is_plain_beside_a_sharded_part_is_folded_in_place(results: list[dict[str, Any]]) -> None:
    for found in results:
        converted, skipped = found["fold a part in place"]
        assert sorted(converted) == ["plain.0.weight", "plain.2.weight", "torch's.0.weight", "torch's.2.weight"]
        assert [each.split(":")[0] for each in skipped] == ["sharded.0.weight", "sharded.2.weight"]
        assert all(WAY_OUT in each for each in skipped)


def test_a_sharded_model_can_be_looked_at(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["find"] == ["0.weight", "2.weight"]
        assert "quantization" in found["check"]
