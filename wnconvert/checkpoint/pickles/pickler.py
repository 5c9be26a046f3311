"""Pickling an object as `torch.save` does, without needing the bytes of its tensors.

In the pickle each storage is a persistent id; its bytes follow elsewhere in the file. Storages that several tensors
share are written once, as `torch.save` does, so what was tied stays tied.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from wnconvert.checkpoint.content.deferred import DeferredTensor, Recipe
from wnconvert.checkpoint.storage.chunks import chunks, storage_chunks
from wnconvert.torch_private import identity_of, rebuild_parameter, rebuild_tensor, storage_types, untyped_storage_of

#: what `torch.save` uses, and every torch reads.
PROTOCOL = 2
#: what is no storage, and makes up nearly all that is asked about.
NEVER = frozenset((str, int, bool, tuple, dict, OrderedDict, type(None), torch.Tensor, type(lambda: None)))


class PickledStorage(NamedTuple):
    """A storage that a pickle refers to: its bytes are those of a storage, or those that a deferred tensor will have.

    Attributes:
        elements: how many elements there are, as the pickle says it.
        nbytes: how many bytes they take.
    """

    source: torch.UntypedStorage | DeferredTensor
    elements: int
    nbytes: int

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes."""
        return chunks(self.source) if isinstance(self.source, DeferredTensor) else storage_chunks(self.source)


def dump(content: Any, *, legacy: bool = False) -> tuple[bytes, list[PickledStorage]]:
    """Return the pickle of ``content`` and the storages in it, whose keys are their numbers.

    Args:
        content: anything that can be pickled.
        legacy: use the persistent ids of the files from before the zip archive.

    Raises:
        PicklingError: or whatever else unknown classes raise when they are pickled.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, (None,) if legacy else ())
    pickler.dump(content)
    return buffer.getvalue(), pickler.storages


class _Storage:
    """Stands for the storage of a tensor while that is pickled."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, suffix: tuple[None, ...]) -> None:
        super().__init__(file, protocol=PROTOCOL)
        self.storages: list[PickledStorage] = []
        self._suffix = suffix
        self._keys: dict[int | Recipe, int] = {}
        self._dtypes: dict[int, torch.dtype] = {}

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        """Return what `torch.load` finds a storage by."""
        if type(obj) in NEVER:
            return None
        if type(obj) is _Storage:
            tensor = obj.tensor
            if isinstance(tensor, DeferredTensor):
                pickled = PickledStorage(tensor, tensor.numel(), tensor.numel() * tensor.element_size())
                return self._id(_storage_class(tensor.dtype), tensor.recipe, pickled, "cpu")
            return self._typed_id(tensor.untyped_storage(), tensor.dtype)
        if isinstance(obj, torch.storage.TypedStorage):
            return self._typed_id(untyped_storage_of(obj), obj.dtype)
        if isinstance(obj, torch.UntypedStorage):
            if self._suffix:
                raise pickle.PicklingError("it has a dtype that came after such files: torch could not load it")
            return self._storage_id(obj, torch.UntypedStorage, torch.uint8)
        return None

    def reducer_override(self, obj: Any) -> Any:
        """Pickle a deferred tensor without computing it, and a plain one without all that others may have."""
        if type(obj) is torch.Tensor:
            return self._reduced(obj, obj.storage_offset()) if _is_plain(obj) else NotImplemented
        if not isinstance(obj, DeferredTensor):
            return NotImplemented
        if isinstance(obj, nn.Parameter):
            return rebuild_parameter(), (obj.detach(), obj.requires_grad, OrderedDict())
        return self._reduced(obj, 0)

    def _reduced(self, tensor: torch.Tensor, offset: int | torch.SymInt) -> tuple[Any, ...]:
        hooks: OrderedDict[str, Any] = OrderedDict()
        facts = (offset, tuple(tensor.shape), tensor.stride(), tensor.requires_grad, hooks)
        return rebuild_tensor(), (_Storage(tensor), *facts)

    def _typed_id(self, storage: torch.UntypedStorage, dtype: torch.dtype) -> tuple[Any, ...]:
        return self._storage_id(storage, _storage_class(dtype), dtype)

    def _storage_id(self, storage: torch.UntypedStorage, kind: Any, dtype: torch.dtype) -> tuple[Any, ...]:
        size = storage.nbytes()
        if size and self._dtypes.setdefault(storage.data_ptr(), dtype) is not dtype:
            raise pickle.PicklingError("several tensors view the same data as different dtypes")
        if size % dtype.itemsize:  # `torch.load` would find more bytes than elements
            raise pickle.PicklingError(f"a tensor has {size} bytes, which are no whole number of elements")
        pickled = PickledStorage(storage, size // dtype.itemsize, size)
        return self._id(kind, identity_of(storage), pickled, torch.serialization.location_tag(storage))

    def _id(self, kind: Any, identity: int | Recipe, pickled: PickledStorage, location: Any) -> tuple[Any, ...]:
        if identity not in self._keys:
            self._keys[identity] = len(self.storages)
            self.storages.append(pickled)
        return ("storage", kind, str(self._keys[identity]), location, pickled.elements, *self._suffix)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether `torch.save` writes nothing of a tensor but a storage, a place in it, shape and strides."""
    return (
        tensor.layout is torch.strided
        and tensor.is_cpu
        and tensor.dtype in storage_types()
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and not vars(tensor)
    )


@cache
def _storage_class(dtype: torch.dtype) -> Any:
    return getattr(torch, storage_types()[dtype])
