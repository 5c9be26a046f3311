"""Which device a text means, and what is computed there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.elsewhere import StandIn, There
from wnconvert.device import CPU, Device, resolve_device
from wnconvert.errors import DeviceError, OptionError, VerificationError

ABSENT = [
    name
    for name, there in (
        ("cuda", torch.cuda.is_available()),
        ("cuda:1", torch.cuda.device_count() > 1),
        ("mps", torch.backends.mps.is_available()),
        ("xpu:0", torch.xpu.is_available()),
    )
    if not there
]


@pytest.mark.parametrize("given", [None, "cpu", "cpu:0", torch.device("cpu"), CPU])
def test_the_cpu_is_where_tensors_are_anyway(given: str | torch.device | Device | None) -> None:
    device = resolve_device(given)
    assert (device, device.is_cpu, device.notes) == (CPU, True, ())
    weight = torch.ones(3)
    assert device.run(lambda tensor: tensor, weight) is weight


@pytest.mark.parametrize("given", ["cuba", "", "cuda:x", "cuda:-1", "0", 3.5, "gpu"])
def test_what_is_no_device_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=r"^device .* is none that torch knows; give cpu, ") as raised:
        resolve_device(given)
    assert repr(given) in str(raised.value)


@pytest.mark.parametrize("given", ["meta", "meta:0"])
def test_what_holds_no_values_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=rf"^device '{given}' holds no values"):
        resolve_device(given)


@pytest.mark.parametrize("given", [*ABSENT, "cpu:1", "hpu", "vulkan", "mkldnn", "lazy", "privateuseone", "cuda:99"])
def test_what_is_not_here_is_said_in_one_line(given: str) -> None:
    with pytest.raises(DeviceError, match=rf"^'{given}' is not available here.*leave it out to compute on the CPU$"):
        resolve_device(given)


def test_trees_of_tensors_go_there_and_come_back() -> None:
    device, seen = StandIn(), []

    def compute(parts: dict[str, Tensor], text: str, pair: tuple[Tensor, int]) -> dict[str, list[Tensor] | str]:
        seen.extend([parts["g"], pair[0]])
        return {"sum": [parts["g"] + pair[0]], "text": text}

    made = device.run(compute, {"g": torch.ones(2)}, "as it is", (torch.full((2,), 2.0), 7))
    assert all(isinstance(each, There) for each in seen)
    assert type(made["sum"][0]) is Tensor
    assert made["sum"][0].tolist() == [3.0, 3.0]
    assert made["text"] == "as it is"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory. Tried to allocate 9 GiB"),
        NotImplementedError("no kernel"),
        TypeError("f64"),
    ],
)
def test_what_the_device_cannot_do_is_said_in_one_line(error: Exception) -> None:
    def fail(_: Tensor) -> Tensor:
        raise error

    with pytest.raises(DeviceError, match=r"^device 'stand-in:0 \(made up\)' cannot compute this \(.*\); leave it out"):
        StandIn().run(fail, torch.ones(1))


def test_what_is_raised_on_purpose_stays_what_it_is() -> None:
    def fail(_: Tensor) -> Tensor:
        raise VerificationError("differs")

    with pytest.raises(VerificationError, match=r"^differs$"):
        StandIn().run(fail, torch.ones(1))


def test_what_was_computed_there_says_so() -> None:
    (note,) = StandIn().notes
    assert "stand-in:0 (made up)" in note
    assert "the CPU too" in note
