"""Where weights are computed: on the CPU, or on another device, whose kernels may round otherwise.

A model that runs on a GPU composes its weights there, and the last bits are those of the GPU's kernels. A file has no
device: its tensors are on the CPU, and so is what is computed from them, unless the user names a device. Then tensors
go there, are computed on as ever, and come back, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from wnconvert.errors import DeviceError, OptionError, WnconvertError, described
from wnconvert.lazy import Tensor, torch, torch_private

Made = TypeVar("Made")
#: what is said where a device is none to compute on
_WAY_OUT = "leave it out to compute on the CPU"


@dataclass(frozen=True)
class Device:
    """A device that is there.

    Attributes:
        where: the device as torch has it; None is the CPU.
        name: what it is called in reports and records: ``"cpu"``, ``"cuda:0 (NVIDIA H200)"``.
    """

    where: torch.device | None = None
    name: str = "cpu"

    @property
    def is_cpu(self) -> bool:
        """Whether it is where the tensors of a file are anyway."""
        return self.where is None

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known of weights that were computed there."""
        if self.is_cpu:
            return ()
        return (f"weights were computed and verified on {self.name}; elsewhere, the CPU too, last bits may differ",)

    def run(self, compute: Callable[..., Made], *given: Any) -> Made:
        """Return what a function makes of trees of tensors, computed on the device; what comes back is on the CPU.

        Raises:
            DeviceError: the device cannot hold or compute that.
        """
        if self.is_cpu:
            return compute(*given)
        pytree = torch_private.pytree
        try:
            there = pytree.tree_map_only(torch.Tensor, self.there, given)
            made: Made = pytree.tree_map_only(torch.Tensor, self.back, compute(*there))
        except WnconvertError:
            raise
        except (RuntimeError, NotImplementedError, TypeError) as error:  # no memory left, no such kernel, no such dtype
            raise DeviceError(f"device {self.name!r} cannot compute this ({_short(error)}); {_WAY_OUT}") from error
        return made

    def there(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device."""
        return tensor.to(self.where)

    def back(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the device on the CPU."""
        return tensor.cpu()


CPU = Device()
#: what means a device
DeviceLike: TypeAlias = "str | torch.device | Device | None"


def resolve_device(device: DeviceLike) -> Device:
    """Return the device that a user means, once something was computed there; None is the CPU.

    Raises:
        OptionError: no device is called so, or it is one that holds no values.
        DeviceError: there is none here.
    """
    if device is None or isinstance(device, Device):
        return device or CPU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of words that it will not know for much longer
        try:
            where = torch.device(device)
        except (RuntimeError, TypeError) as error:
            known = "cpu, cuda, cuda:1, mps or xpu"
            raise OptionError(f"device {device!r} is none that torch knows; give {known}") from error
        if where.type == "meta":
            raise OptionError(f"device {device!r} holds no values, so nothing can be computed there; give cpu or cuda")
        if where.type == "cpu" and not where.index:
            return CPU
        return _probed(where)


def _probed(where: torch.device) -> Device:
    """Return a device on which something could be computed."""
    try:
        probe = torch.ones(2).to(where)
        works = probe.device.type == where.type != "cpu" and (probe + 1).cpu().tolist() == [2.0, 2.0]
    except Exception as error:
        raise DeviceError(f"{str(where)!r} is not available here ({_short(error)}); {_WAY_OUT}") from error
    if not works:
        raise DeviceError(f"{str(where)!r} is not available here; {_WAY_OUT}")
    called = getattr(torch.get_device_module(where), "get_device_name", None)
    model = f" ({called(probe.device)})" if called else ""
    return Device(probe.device, f"{probe.device}{model}")


def _short(error: BaseException) -> str:
    """Return the first sentence of an error, which torch follows up with pages."""
    text = described(error)
    return text if len(text) <= 120 else f"{text[:117]}..."
