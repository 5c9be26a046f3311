"""Models inside of what trains, averages or compiles them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, weight_norm as hook_weight_norm
from torch.optim.swa_utils import AveragedModel

from tests.processes import run_code
from wnconvert import Selection, Why
from wnconvert.graph.copying import clone
from wnconvert.modules.foreign.reparametrized import fold_reparametrized
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.modules.wrapped import (
    make_ready,
    reason_against_apply,
    reason_against_fold,
    reason_against_fuse,
    reasons_against_fold,
)
from wnconvert.scheme import resolve_scheme

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def in_place(scheme: str) -> Callable[[], nn.Sequential]:
    def build() -> nn.Sequential:
        model = plain()
        assert apply_in_place(model, resolve_scheme(scheme), 0, Selection()).modified
        return model

    return build


def layerwise(api: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Sequential]:
    return lambda: nn.Sequential(*(api(each) if isinstance(each, nn.Linear) else each for each in plain()))


APPLIED = {
    "in place": in_place("weight_norm"),
    "in place with state": in_place("spectral_norm"),
    "hook": layerwise(hook_weight_norm),
    "weight_norm": layerwise(parametrizations.weight_norm),
    "spectral_norm": layerwise(parametrizations.spectral_norm),
}


@pytest.fixture
def group(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Lightning(nn.Module):
    """A module that has the model beside its loss, and an optimizer that is no module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.MSELoss()
        self.optimizers = [torch.optim.SGD(model.parameters(), 0.1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


WRAPPERS = {
    "distributed": (DistributedDataParallel, "module."),
    "parallel": (nn.DataParallel, "module."),
    "averaged": (AveragedModel, "module."),
    "lightning": (Lightning, "model."),
    "compiled": (lambda model: torch.compile(model, backend="aot_eager"), "_orig_mod."),
    "compiled twice": (lambda model: Lightning(torch.compile(model, backend="eager")), "model._orig_mod."),
}


def fold(model: nn.Module) -> list[str]:
    """Fold live modules, as `wnconvert.fold` does, and return the names of the weights."""
    report = fold_in_place(model, Selection()) + fold_reparametrized(model, Selection())
    make_ready(model)
    return [entry.fqn for entry in report.converted]


@pytest.mark.usefixtures("group")
# where a scheme breaks the compiled graph, torch looks for the gradient of what is in between
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", APPLIED)
def test_what_is_wrapped_is_folded_and_computes_the_same(kind: str, wrapper: str, copied: bool) -> None:
    wrap, prefix = WRAPPERS[wrapper]
    if kind == "hook" and wrapper == "averaged":
        pytest.skip("torch cannot copy a module with this hook after it was called")
    model = wrap(APPLIED[kind]().eval()).eval()
    expected = model(X)
    folded = clone(model) if copied else model
    assert fold(folded) == [f"{prefix}0.weight", f"{prefix}2.weight"]
    assert torch.equal(folded(X), expected)
    if copied:
        assert torch.equal(model(X), expected)
    # nothing computes with what was there before
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.mul_(2)
    own = plain().eval()
    own.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in folded.state_dict().items()
            if "0." in name or "2." in name
        }
    )
    assert torch.equal(folded(X), own(X))


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("kind", APPLIED)
def test_a_folded_model_goes_on_training_in_its_wrapper(kind: str) -> None:
    model = DistributedDataParallel(APPLIED[kind]())
    model(X).square().sum().backward()
    fold(model)
    for _ in range(2):
        model.zero_grad()
        model(X).square().sum().backward()
    alone = plain()
    alone.load_state_dict(model.module.state_dict())
    alone(X).square().sum().backward()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    # the reducer knows all of them: without synchronization none would have been reduced
    assert model.reducer._get_zeros_like_grad_buckets() is not None
    assert sum(bucket.buffer().numel() for bucket in model.reducer._get_zeros_like_grad_buckets()) == 76


@pytest.mark.usefixtures("group")
def test_what_cannot_be_made_anew_is_skipped() -> None:
    model = DistributedDataParallel(APPLIED["weight_norm"](), process_group=dist.new_group([0]))
    report = fold_reparametrized(model, Selection())
    assert not report.modified
    assert {entry.fqn for entry in report.skipped} == {"module.0.weight", "module.2.weight"}
    assert all("fold the .module of" in entry.reason for entry in report.skipped)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("wrapper", ["distributed", "parallel", "compiled"])
def test_a_wrapped_model_is_not_applied_to(wrapper: str, inside: bool) -> None:
    model = WRAPPERS[wrapper][0](plain())
    reason = reason_against_apply(nn.ModuleDict({"net": model}) if inside else model)
    assert reason is not None
    assert ("'net'" in reason) is inside
    assert reason.endswith("apply to the plain model first, and wrap the result")


@pytest.mark.parametrize("wrap", [lambda model: model, AveragedModel, Lightning, nn.Sequential])
def test_any_other_model_may_be_applied_to(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert reason_against_apply(wrap(plain())) is None
    assert reasons_against_fold(wrap(plain())) == {}
    assert reason_against_fold(wrap(plain()), inplace=False) is None
    assert reason_against_fuse(wrap(plain())) is None


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")  # FSDP without a GPU, and the older of the two on its way out
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("version", [1, 2])
def test_sharded_models_are_refused_or_skipped(kind: str, version: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model = APPLIED[kind]()
    expected = model.eval()(X)
    mesh = init_device_mesh("cpu", (1,))
    if version == 1:
        model = FullyShardedDataParallel(model, device_mesh=mesh, device_id=torch.device("cpu"), use_orig_params=True)
    else:
        fully_shard(model, mesh=mesh)
    assert "apply to the plain model first" in reason_against_apply(model)
    assert reason_against_fold(model, inplace=True) == reason_against_fuse(model) == Why.SHARDED()
    # what is beside the sharded part can be folded, but not copied with it
    beside = nn.ModuleList([model, plain()])
    assert reason_against_fold(beside, inplace=True) is None
    assert reason_against_fold(beside, inplace=False) == Why.SHARDED()
    report = fold_reparametrized(model, Selection())
    assert not report.modified
    assert len(report.skipped) == 2
    assert all("sharded" in entry.reason for entry in report.skipped)
    torch.testing.assert_close(model(X), expected)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "hook"])
def test_weights_that_are_distributed_tensors_are_skipped(kind: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = APPLIED[kind]()
    distribute_module(model, init_device_mesh("cpu", (1,)))
    report = fold_reparametrized(model, Selection())
    assert not report.modified
    assert all(entry.reason == Why.SHARDED() for entry in report.skipped)
    assert reason_against_fold(model, inplace=False) is None
    assert reason_against_fuse(model) == Why.SHARDED()


def test_nothing_is_imported_to_find_out(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from torch import nn; from wnconvert.modules.wrapped import *; before = set(sys.modules);"
        "model = nn.Sequential(nn.Linear(2, 2)); reason_against_apply(model); reasons_against_fold(model);"
        "make_ready(model); assert set(sys.modules) == before, set(sys.modules) - before"
    )
    done = run_code(program, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
