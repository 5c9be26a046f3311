"""Tensors that are computed when they are needed."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as library_bytes
from torch import nn

from tests.checkpoint.conftest import checkpoint, leftovers
from tests.processes import run_code
from wnconvert.checkpoint import FORMATS, Checkpoint, apply, difference, fold, load, save
from wnconvert.checkpoint.content.deferred import DeferredTensor, defer, real
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.checkpoint.formats.safetensors import DTYPES
from wnconvert.errors import OutputError


def deferred(value: torch.Tensor) -> torch.Tensor:
    return defer(lambda: value * 2, value, [value])


def test_functions_compute_it_and_give_ordinary_tensors() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    tensor = deferred(value)
    assert (tensor.shape, tensor.dtype, tensor.stride()) == (value.shape, value.dtype, value.stride())
    for result in (tensor + 0, tensor.clone(), torch.cat([tensor]), tensor.view(2, 3), copy.deepcopy(tensor)):
        assert type(result) is torch.Tensor
        assert torch.equal(result, value * 2)
    assert torch.equal(real(tensor), value * 2)
    assert "computed" not in repr(tensor)


def test_it_stays_deferred_where_only_its_look_changes() -> None:
    tensor = deferred(torch.ones(2))
    parameter = nn.Parameter(tensor, requires_grad=False)
    for each in (tensor.detach(), parameter):
        assert isinstance(each, DeferredTensor)
        assert storage_key(each) == storage_key(tensor)
    assert isinstance(parameter, nn.Parameter)
    assert type(real(parameter)) is nn.Parameter
    assert storage_key(deferred(torch.ones(2))) != storage_key(tensor)


def test_a_module_loads_it() -> None:
    layer = nn.Linear(3, 2)
    layer.load_state_dict({"weight": deferred(torch.ones(2, 3)), "bias": torch.zeros(2)})
    assert torch.equal(layer.weight, torch.full((2, 3), 2.0))


def test_it_cannot_be_changed_in_place() -> None:
    with pytest.raises(RuntimeError, match="change a clone"):
        deferred(torch.ones(2)).mul_(2)


def test_a_source_that_changed_meanwhile_is_noticed() -> None:
    state = {"a.weight": torch.randn(4, 300)}
    applied = apply(checkpoint(state)).checkpoint.content
    assert torch.equal(applied["a.weight_v"], state["a.weight"])
    state["a.weight"].mul_(3)
    with pytest.raises(RuntimeError, match="was changed in place after the conversion"):
        applied["a.weight_v"] + 0


def test_memory_formats_are_kept() -> None:
    value = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    tensor = defer(lambda: value.contiguous(), value, [value])
    assert (tensor + 0).stride() == value.stride()
    back = fold(apply(checkpoint({"a.weight": value})).checkpoint).checkpoint.content["a.weight"]
    assert difference(value, back) is None


# writing


def everything() -> dict[str, object]:
    base = torch.arange(100.0)
    return {
        "view": base[:10],
        "transposed view": base[5:50].view(5, 9).t(),
        "tied": base[:10],
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(torch.ones(2, 2), requires_grad=False),
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "meta": torch.ones(2, device="meta"),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.half, torch.bfloat16, torch.bool, torch.int8)},
    }


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.filterwarnings("ignore:.*torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy"])
def test_torch_reads_what_is_written_as_what_torch_writes(tmp_path: Path, name: str) -> None:
    content, path, theirs = everything(), tmp_path / "ours", io.BytesIO()
    FORMATS.get(name)().write(Checkpoint(content, name), path)
    torch.save(content, theirs, _use_new_zipfile_serialization=name == "torch_zip")
    for mmap in (False, True) if name == "torch_zip" else (False,):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert difference(content, found) is None
        assert storage_key(found["view"]) == storage_key(found["tied"])
    assert path.stat().st_size <= len(theirs.getvalue())


def test_the_bytes_of_safetensors_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {f"{index}.{dtype}": torch.ones(3).to(dtype) for index, dtype in enumerate(DTYPES)}
    tensors |= {"empty": torch.empty(0, 2), "scalar": torch.tensor(2.0), '"\n\N{SNOWMAN}': torch.ones(1)}
    FORMATS.get("safetensors")().write(Checkpoint(tensors, "safetensors", {"a": '"b"\n'}), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == library_bytes(tensors, {"a": '"b"\n'})


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
