"""Tensors that are computed when they are needed."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint, leftovers
from tests.helpers import sample
from tests.processes import run_code
from wnconvert.checkpoint import FORMATS, Checkpoint, apply, difference, fold, load, save
from wnconvert.checkpoint.content import deferred as module
from wnconvert.checkpoint.content.deferred import DeferredTensor, defer, real, shape_of, slices
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.errors import OutputError


def deferred(value: torch.Tensor) -> torch.Tensor:
    return defer(lambda: value * 2, value, [value])


def test_functions_compute_it_and_give_ordinary_tensors() -> None:
    value = torch.arange(600.0).reshape(2, 300)
    tensor = deferred(value)
    assert (tensor.shape, tensor.dtype, tensor.stride()) == (value.shape, value.dtype, value.stride())
    for result in (tensor + 0, tensor.clone(), torch.cat([tensor]), tensor.view(2, 300), copy.deepcopy(tensor)):
        assert type(result) is torch.Tensor
        assert torch.equal(result, value * 2)
    assert torch.equal(real(tensor), value * 2)
    assert "computed" not in repr(tensor)


@pytest.mark.parametrize("given", [False, True])
def test_what_is_tiny_is_made_at_once(given: bool) -> None:
    value = torch.ones(2, 2, requires_grad=True)
    shown = torch.empty(2, 2).T
    tensor = defer(lambda: value * 2, shown, [value], made=value * 2 if given else None)
    assert type(tensor) is torch.Tensor
    assert (tensor.stride(), tensor.requires_grad) == (shown.stride(), False)
    with torch.no_grad():
        value.zero_()
    assert torch.equal(tensor, torch.full((2, 2), 2.0))
    with pytest.raises(RuntimeError, match="not torch"):
        defer(lambda: value.detach().double(), shown, [])


def test_it_stays_deferred_where_only_its_look_changes() -> None:
    tensor = deferred(torch.ones(300))
    parameter = nn.Parameter(tensor, requires_grad=False)
    for each in (tensor.detach(), parameter):
        assert isinstance(each, DeferredTensor)
        assert storage_key(each) == storage_key(tensor)
    assert isinstance(parameter, nn.Parameter)
    assert type(real(parameter)) is nn.Parameter
    assert storage_key(deferred(torch.ones(300))) != storage_key(tensor)


def test_a_module_loads_it() -> None:
    layer = nn.Linear(300, 2)
    layer.load_state_dict({"weight": deferred(torch.ones(2, 300)), "bias": torch.zeros(2)})
    assert torch.equal(layer.weight, torch.full((2, 300), 2.0))


def test_it_cannot_be_changed_in_place() -> None:
    with pytest.raises(RuntimeError, match="change a clone"):
        deferred(torch.ones(300)).mul_(2)


def test_a_source_that_changed_meanwhile_is_noticed() -> None:
    state = {"a.weight": torch.randn(4, 300)}
    applied = apply(checkpoint(state)).checkpoint.content
    assert torch.equal(applied["a.weight_v"], state["a.weight"])
    state["a.weight"].mul_(3)
    with pytest.raises(RuntimeError, match="was changed in place after the conversion"):
        applied["a.weight_v"] + 0


def test_what_is_small_is_made_once_for_those_who_only_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_TOGETHER", 2000)
    made: list[int] = []

    def small(count: int) -> DeferredTensor:
        value = torch.arange(float(count))
        tensor = defer(lambda: made.append(count) or value + 1, value, [value])  # type: ignore[func-returns-value]
        assert isinstance(tensor, DeferredTensor)
        return tensor

    first, second = small(300), small(400)
    for _ in range(2):
        assert torch.equal(next(first.blocks()), torch.arange(1.0, 301.0))
    assert made == [300]
    real(first).zero_()  # what others are given is their own
    assert torch.equal(next(first.detach().blocks()), torch.arange(1.0, 301.0))  # type: ignore[attr-defined]
    assert made == [300, 300]
    next(second.blocks()), next(second.blocks())  # there is no room for both
    assert made == [300, 300, 400]
    assert torch.equal(next(first.blocks()), torch.arange(1.0, 301.0))
    assert made == [300, 300, 400, 300]


def test_what_is_kept_does_not_hide_that_a_source_changed() -> None:
    value = torch.ones(300)
    tensor = defer(lambda: value * 2, value, [value], made=value * 2)
    assert isinstance(tensor, DeferredTensor)
    assert torch.equal(next(tensor.blocks()), torch.full((300,), 2.0))
    value.add_(1)
    with pytest.raises(RuntimeError, match="was changed in place"):
        next(tensor.blocks())


def test_memory_formats_are_kept() -> None:
    value = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    tensor = defer(lambda: value.contiguous(), value, [value])
    assert (tensor + 0).stride() == value.stride()
    back = fold(apply(checkpoint({"a.weight": value})).checkpoint).checkpoint.content["a.weight"]
    assert difference(value, back) is None


# writing


def test_what_is_deferred_and_tied_stays_tied(tmp_path: Path) -> None:
    tied = torch.randn(6, 200)
    for name in ("torch_zip", "torch_legacy"):
        source = checkpoint({"a.weight": tied, "b.weight": tied, "c": {"x.weight": tied}}, name)
        path = tmp_path / name
        save(apply(source).checkpoint, path, source=tmp_path / "none")
        found = load(path).content
        assert len({storage_key(t) for t in (found["a.weight_v"], found["b.weight_v"], found["c"]["x.weight_v"])}) == 1
    applied = apply(checkpoint({"a.weight": tied, "b.weight": tied}, "safetensors")).checkpoint
    with pytest.raises(OutputError, match=r"'a.weight_v' and 'b.weight_v' share memory"):
        save(applied, tmp_path / "x", source=tmp_path / "none")
    assert leftovers(tmp_path, "torch_zip", "torch_legacy", "torch_legacy.wnconvert.json") == set()


MEMORY = """
import ctypes, threading, time
from pathlib import Path
import wnconvert.checkpoint as c
from wnconvert.checkpoint import verify_apply, verify_content

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

most, done = 0, False
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.002)

import torch
# what is freed goes back to the system at once, so that what is counted is what is held
ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
c.fold(c.apply(c.Checkpoint({"a.weight": torch.ones(3, 3)}, "torch_zip")).checkpoint)
c.load("in")
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
source = c.load("in")
applied = c.apply(source)
c.save(applied.checkpoint, "applied", source="in", verify=lambda w: verify_apply(source, applied, w))
folded = c.fold(c.load("applied"))
c.save(folded.checkpoint, "folded", source="applied", verify=lambda w: verify_content(folded.checkpoint, w))
done = True
thread.join()
print(most - before)
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
@pytest.mark.parametrize("name", ["safetensors", "torch_zip", "torch_legacy", "npz", "safetensors_sharded"])
def test_memory_is_that_of_a_few_tensors_whatever_the_file(tmp_path: Path, name: str) -> None:
    content = {f"{index}.weight": torch.rand(512, 512) + 0.1 for index in range(24)}
    if FORMATS.get(name).folder:
        (tmp_path / "in").mkdir()
    FORMATS.get(name)().write(Checkpoint(content, name), tmp_path / "in")
    done = run_code(MEMORY, cwd=tmp_path)
    assert done.code == 0, done.err
    # a legacy file cannot be mapped: three of them are in memory, the two inputs and what is verified
    limit = 8 + (3 * len(content) if name == "torch_legacy" else 0)
    assert int(done.out) / (512 * 512 * 4) < limit


def test_blocks_are_the_tensor(block: int) -> None:
    value = sample(40, 30, dtype=torch.float32)
    whole = defer(lambda: value * 2, value, [value])
    parted = defer(lambda: value * 2, value, [value], lambda rows: value[rows] * 2)
    assert isinstance(whole, DeferredTensor)
    assert isinstance(parted, DeferredTensor)
    assert len(list(whole.blocks())) == 1
    assert len(list(parted.blocks())) == len(slices(value)) == (1 if block > 700 else 40 if block == 1 else 8)
    assert torch.equal(torch.cat(list(parted.blocks())), value * 2)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(3, 4),
        torch.empty(3, 4).t(),
        torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.empty(2, 3, 4).permute(2, 0, 1),
        torch.empty(3, 4)[:, :2],
        torch.empty(3, 1).expand(3, 4),
        torch.empty(1, 4).as_strided((1, 4), (77, 1)),
        torch.empty(0, 3),
        torch.empty(()),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.stride()}",
)
def test_the_strides_of_a_result_are_those_that_torch_gives(tensor: torch.Tensor) -> None:
    assert shape_of(tensor).stride() == torch.empty_like(tensor, device="meta").stride()
