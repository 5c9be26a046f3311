"""Whole models of a file whose weights another device computes.

A file's model is on the CPU and stays there: it is converted as ever, and so is a copy on the device. Of that only the
values are taken. So nothing that a move between devices changes reaches the output: ties, strides, or a device that is
written into a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wnconvert.errors import DeviceError

if TYPE_CHECKING:
    from torch import nn

    from wnconvert.device import Device
    from wnconvert.report import Report


def copied(model: nn.Module, device: Device) -> nn.Module:
    """Return a copy of a model on a device; all tensors that it holds are there, registered or not."""
    import torch

    def copy() -> nn.Module:
        kept = BytesIO()
        torch.save(model, kept)
        kept.seek(0)
        # the model came from a file that is trusted, or was written a moment ago
        made: nn.Module = torch.load(kept, map_location=device.where, weights_only=False)
        return made

    return model if device.is_cpu else device.run(copy)


def converted(convert: Callable[[Any], Any], model: nn.Module, device: Device, *, splits: bool) -> tuple[Any, Report]:
    """Return a converted model, with the values that the device computes, and the report of the conversion there.

    Args:
        convert: the conversion; returns the new model and a report.
        model: a model on the CPU.
        device: where values are computed.
        splits: whether parts are made, rather than weights.

    Raises:
        DeviceError: other weights can be converted there than here.
    """
    import torch

    made, report = convert(model)
    if device.is_cpu:
        return made, report
    there, told = device.run(convert, copied(model, device))
    if {each.fqn for each in told.converted} != {each.fqn for each in report.converted}:
        raise DeviceError(f"other weights can be converted on {device.name!r} than on the CPU; leave the device out")
    here, values = made.state_dict(), there.state_dict()
    with torch.no_grad():
        for entry in told.converted:
            for name in entry.keys if splits else (entry.fqn,):
                here[name].copy_(values[name])
    return made, told
