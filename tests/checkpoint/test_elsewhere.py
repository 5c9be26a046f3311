"""Files whose weights are computed on another device: its bits, in both directions, and all that is said of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.conftest import checkpoint
from tests.elsewhere import StandIn
from tests.helpers import DTYPES, bits_equal, variant_id, variants
from wnconvert.checkpoint import (
    Reading,
    apply,
    apply_like,
    fold,
    manifest,
    migrate,
    unfold,
    verify,
    verify_apply,
    verify_unfold,
)
from wnconvert.errors import DeviceError, OptionError, VerificationError
from wnconvert.scheme import Scheme

DEVICE = StandIn()


def plain(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return nn.Sequential(nn.Conv1d(5, 8, 3), nn.Linear(8, 300)).to(dtype).state_dict()


def composed(module: nn.Module) -> Tensor:
    """The weight as the module composes it where its tensors are on the device."""
    g, v = module.weight_g.detach(), module.weight_v.detach()
    return DEVICE.run(lambda v, g: torch._weight_norm(v, g, 0), v, g)


def same(content: Any, other: Any) -> bool:
    return all(bits_equal(content[key].clone(), other[key].clone()) for key in other) and list(content) == list(other)


def test_the_stand_in_has_bits_of_its_own() -> None:
    module = nn.utils.weight_norm(nn.Linear(64, 64))
    assert not torch.equal(composed(module), module.weight)


def test_fold_gives_the_bits_of_the_device() -> None:
    module = nn.utils.weight_norm(nn.Linear(64, 64))
    conversion = fold(checkpoint(module.state_dict()), device=DEVICE)
    folded = conversion.checkpoint.content["weight"]
    assert torch.equal(folded, composed(module))
    assert not torch.equal(folded, fold(checkpoint(module.state_dict())).checkpoint.content["weight"])
    assert conversion.report.notes[0] == DEVICE.notes[0]


def test_a_weight_is_computed_whole() -> None:
    module = nn.utils.weight_norm(nn.Linear(1024, 4096))  # 16 MB: the CPU makes it a few channels at a time
    folded = fold(checkpoint(module.state_dict()), device=DEVICE).checkpoint.content["weight"]
    assert len(list(folded.blocks())) == 1
    assert len(list(fold(checkpoint(module.state_dict())).checkpoint.content["weight"].blocks())) > 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", [each for each in variants() if each.preserving], ids=variant_id)
def test_apply_gives_every_bit_back_there(scheme: Scheme, dtype: torch.dtype) -> None:
    source = checkpoint(plain(dtype))
    there = apply(source, scheme, dim="default" if scheme.shared else 0, device=DEVICE)
    assert len(there.report.converted) == 2
    assert there.report.exact
    verify_apply(source, there, there.checkpoint, device=DEVICE)
    assert same(fold(there.checkpoint, device=DEVICE).checkpoint.content, source.content)


def test_what_was_split_there_is_another_here_and_that_is_said() -> None:
    source = checkpoint(plain())
    there = apply(source, device=DEVICE)
    here = fold(there.checkpoint)
    assert not same(here.checkpoint.content, source.content)
    torch.testing.assert_close(dict(here.checkpoint.content), source.content)
    assert [note for note in here.report.notes if note.startswith("weights were split on stand-in:0 (made up) and")]
    assert not [note for note in fold(there.checkpoint, device=DEVICE).report.notes if "were split on" in note]
    assert not fold(apply(source).checkpoint).report.notes
    with pytest.raises(VerificationError, match="does not fold back"):
        verify_apply(source, there, there.checkpoint)


def test_the_record_names_the_device_that_is_not_the_cpu() -> None:
    source = checkpoint(plain())
    there, here = apply(source, device=DEVICE).checkpoint, apply(source).checkpoint
    assert {entry.device for entry in manifest.read(there.metadata).values()} == {DEVICE.name}
    assert {entry.device for entry in manifest.read(here.metadata).values()} == {"cpu"}
    assert "device" not in here.metadata[manifest.KEY]


@pytest.mark.parametrize("layout", ["parametrization", "spectral_norm"])
def test_layouts_are_written_there(layout: str) -> None:
    scheme = "spectral_norm" if layout == "spectral_norm" else "weight_norm"
    name = "parametrization"
    if scheme == "spectral_norm":
        module = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)).eval()
        source = checkpoint({"weight": module.weight.detach().clone()})
    else:
        source = checkpoint(plain())
    from wnconvert.checkpoint import LAYOUTS

    conversion = unfold(source, name, scheme=scheme, dim=0, device=DEVICE)
    verify_unfold(source, conversion, conversion.checkpoint, LAYOUTS.get(name)(), 0, device=DEVICE)
    assert conversion.report.notes[0] == DEVICE.notes[0]


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_what_is_like_a_reference_is_split_there(norm: Callable[..., nn.Module]) -> None:
    reference = checkpoint(norm(nn.Linear(6, 8)).eval().state_dict())
    source = fold(reference, device=DEVICE, dim=0).checkpoint
    again = apply_like(source, reference, device=DEVICE, dim=0)
    assert again.report.exact
    assert same(fold(again.checkpoint, device=DEVICE, dim=0).checkpoint.content, source.content)
    replayed = apply(source, device=DEVICE)
    assert same(fold(replayed.checkpoint, device=DEVICE, dim=0).checkpoint.content, source.content)


def test_migrations_compare_there() -> None:
    source = checkpoint(nn.utils.spectral_norm(nn.Linear(6, 8)).eval().state_dict())
    conversion = migrate(source, "parametrization", device=DEVICE)
    assert conversion.report.exact
    assert conversion.report.notes[0] == DEVICE.notes[0]


def test_files_may_be_equal_there_and_not_here() -> None:
    parts = checkpoint(nn.utils.weight_norm(nn.Linear(64, 64)).state_dict())
    folded = fold(parts, device=DEVICE).checkpoint
    assert verify(parts, folded, device=DEVICE).equal
    assert verify(parts, folded, reading=Reading(device=DEVICE)).equal
    assert not verify(parts, folded).equal
    assert verify(parts, folded, tolerance=1e-5).passed


@pytest.mark.parametrize("work", [fold, apply, verify, unfold, migrate, apply_like])
def test_devices_are_refused_before_anything_is_read(work: Callable[..., Any]) -> None:
    given: list[Any] = [object()] if work in (fold, apply) else [object(), object()]
    with pytest.raises(OptionError, match="holds no values"):
        work(*given, device="meta")
    with pytest.raises(DeviceError, match="'hpu' is not available here"):
        work(*given, device="hpu")
