import itertools
import pickletools
from io import BufferedReader, BytesIO
from zipfile import ZipFile

import pytest
import torch

from wnconvert.checkpoint.pickles import machine, plain_tensor
from wnconvert.checkpoint.storage.limits import Budget


def pickled(content):
    file = BytesIO()
    torch.save(content, file)
    with ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


def places(program):
    """Where the function that rebuilds a tensor was just taken from the memo."""
    known, at = set(), []
    operations = list(pickletools.genops(program))
    for (operation, arg, _), (after, number, end) in itertools.pairwise(operations):
        if operation.name == "GLOBAL" and arg.endswith("_rebuild_tensor_v2"):
            known.add(number)
        if operation.name in ("BINGET", "LONG_BINGET") and arg in known and after.name == "MARK":
            at.append(end)
    return at


def spelled(tensor):
    program = pickled({"first": torch.zeros(1, dtype=tensor.dtype), "second": tensor})
    (place,) = places(program)
    return program, place, plain_tensor.read(memoryview(program), place)


SHAPES = [(), (0,), (3,), (300,), (8, 8), (70000, 2), (2, 3, 4), (2, 3, 1, 5), (1,) * 8]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_spelled_is_what_was_pickled(shape):
    tensor = torch.zeros(shape, dtype=torch.uint8)
    program, _, found = spelled(tensor)
    assert (found.shape, found.strides, found.offset) == (shape, tensor.stride(), 0)
    assert (found.key, found.elements, found.requires_grad) == ("1", tensor.numel(), False)
    assert program[found.end :] == b"u."


def test_views_have_their_offsets_and_strides():
    _, _, found = spelled(torch.arange(100000.0).reshape(250, 400)[200:, ::2].T)
    assert (found.shape, found.strides, found.offset, found.elements) == ((200, 50), (2, 400), 80000, 100000)


def test_gradients_are_told():
    assert spelled(torch.zeros(2, requires_grad=True))[-1].requires_grad


def test_what_is_spelled_otherwise_is_nobodys():
    assert spelled(torch.zeros((1,) * 9))[-1] is None  # more dims than anyone has
    program, place, _ = spelled(torch.zeros(2))
    longer = program.replace(b"X\x01\0\0\x001q", b"X\x02\0\0\x001q")  # the key would have more characters
    assert longer != program
    assert plain_tensor.read(memoryview(longer), place) is None
    assert plain_tensor.read(memoryview(program), place + 1) is None
    assert plain_tensor.read(memoryview(program[:-10]), place) is None


def shown(value):
    if isinstance(value, torch.storage.TypedStorage):
        return value.dtype, value._untyped_storage.nbytes()
    return tuple(map(shown, value)) if type(value) is tuple else str(value)


@pytest.mark.parametrize("optimized", [False, True])
def test_the_machine_ends_in_the_state_that_single_operations_lead_to(tmp_path, monkeypatch, optimized):
    tied = torch.rand(4, 4)
    tensors = [torch.rand(2, 3), tied, tied, tied.T, torch.rand(3, 2, 2, 2)[1:], torch.zeros(()), torch.ones(2).int()]
    content = {f"layers.{index}": tensor for index, tensor in enumerate(tensors * 60)}
    program = pickled(content | {"parameter": torch.nn.Parameter(torch.rand(2))})
    program = pickletools.optimize(program) if optimized else program
    (path := tmp_path / "a.pkl").write_bytes(program)
    storages = {}

    def storage(key, dtype, count):
        return storages.setdefault(key, torch.arange(count * dtype.itemsize, dtype=torch.uint8).untyped_storage())

    read = []
    monkeypatch.setattr(
        plain_tensor, "read", lambda *args, real=plain_tensor.read: read.append(real(*args)) or read[-1]
    )
    quick, slow = (machine._Machine(storage, Budget(path)) for _ in range(2))
    found = quick.run(BytesIO(program))
    assert sum(each is not None for each in read) > len(set(storages)) - 5
    count = len(read)
    assert str(slow.run(BufferedReader(BytesIO(program)))) == str(found)
    assert len(read) == count
    assert shown((*quick._memo.items(),)) == shown((*slow._memo.items(),))
    assert shown((*quick.tensors,)) == shown((*slow.tensors,))
