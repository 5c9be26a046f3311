from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import WEIGHTS, checkpoint, op, state_dict, training_checkpoint
from wnconvert.checkpoint import apply, bits_equal, difference, find_state_dicts, fold
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.errors import UnknownNameError
from wnconvert.scheme import SCHEMES
from wnconvert.selection import Selection

# round trips


@pytest.mark.parametrize("name", list(SCHEMES))
def test_fold_undoes_apply_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    scheme = SCHEMES.get(name)()
    source = checkpoint(training_checkpoint(dtype))
    applied = apply(source, scheme, dim=0)
    back = fold(applied.checkpoint)
    assert len(applied.report.converted) == 2 * len(WEIGHTS) + 1
    assert applied.report.skipped == ()
    assert {entry.fqn for entry in back.report.converted} == {entry.fqn for entry in applied.report.converted}
    assert back.checkpoint.metadata == source.metadata
    if scheme.preserving:
        assert applied.report.exact
        assert difference(source.content, back.checkpoint.content) is None
    else:
        assert not applied.report.exact


def test_the_input_is_not_modified() -> None:
    content, same = training_checkpoint(), training_checkpoint()
    applied = apply(checkpoint(content)).checkpoint
    assert difference(same, content) is None
    again = apply(checkpoint(same)).checkpoint
    fold(applied)
    assert difference(again.content, applied.content) is None


def test_parts_stand_where_the_weight_stood() -> None:
    content = {"a.bias": torch.ones(2), "b.weight": torch.ones(2, 3), "b.bias": torch.ones(2)}
    applied = apply(checkpoint(content)).checkpoint.content
    assert list(applied) == ["a.bias", "b.weight_g", "b.weight_v", "b.bias"]


@pytest.mark.parametrize("scheme", ["weight_norm", "centered_weight_norm", "sigma_reparam"])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 1, 2, 2), (4, 3, 1, 1), (1, 1, 2, 2)])
def test_memory_formats_survive(shape: tuple[int, ...], scheme: str) -> None:
    weight = torch.randn(shape).to(memory_format=torch.channels_last)
    source = checkpoint({"a.weight": weight})
    back = fold(apply(source, scheme, dim=0).checkpoint).checkpoint.content["a.weight"]
    assert back.stride() == back.clone().stride() == weight.stride()
    assert bits_equal(back, weight)


# ties


def ties(content: Any) -> set[frozenset[str]]:
    """Sets of names that lead to the same elements of the same storage."""
    names: dict[Any, set[str]] = {}
    for found in find_state_dicts(content):
        for key, tensor in found.tensors.items():
            names.setdefault(storage_key(tensor), set()).add(found.fqn(key))
    return {frozenset(same) for same in names.values() if len(same) > 1}


def test_tied_entries_are_split_once_and_stay_tied() -> None:
    source = checkpoint(training_checkpoint())
    applied = apply(source)
    assert frozenset({"model.conv.weight_v", "nested.same.first.weight_v"}) in ties(applied.checkpoint.content)
    assert frozenset({"model.embed.weight_g", "model.head.weight_g"}) in ties(applied.checkpoint.content)
    back = fold(applied.checkpoint)
    assert ties(back.checkpoint.content) == ties(source.content) != set()
    assert "model.head.weight" not in {entry.fqn for entry in applied.report.converted}


def test_a_tied_weight_is_chosen_by_any_of_its_names() -> None:
    content = apply(checkpoint(state_dict()), selection=Selection(include=("head",))).checkpoint.content
    assert {key for key in content if key.endswith("_v")} == {"embed.weight_v", "head.weight_v"}


# which weights


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'weight_norm'"):
        apply(checkpoint(state_dict()), "weight_nrom")


# the ops of a model decide


def test_ops_decide_which_keys_are_weights() -> None:
    state = state_dict()
    ops = [op("conv.weight", 8, 3, 3, 3, name="conv2d"), op("head.weight", 7, 4, aliases=("embed.weight",))]
    report = apply(checkpoint({"a": state, "b": {"x.weight": torch.ones(2, 2)}}), dim="output", ops=ops).report
    assert [(entry.fqn, entry.op) for entry in report.converted] == [
        ("a.conv.weight", "conv2d"),
        ("a.head.weight", "linear"),
    ]
    assert report.notes == ("left as it is, for it does not fit the model: b",)


# torch's own weight norm as the oracle


def twins(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """A plain network, and the same under torch's hook-based weight norm."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Flatten(), nn.Linear(40, 5)).to(dtype)
    torch.manual_seed(0)
    hooked = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Flatten(), nn.Linear(40, 5)).to(dtype)
    for index in (0, 1, 3):
        nn.utils.weight_norm(hooked[index])
    return plain, hooked


@pytest.mark.parametrize("api", ["hooks", "parametrizations"])
def test_a_converted_file_loads_into_torchs_own_weight_norm(api: str, dtype: torch.dtype) -> None:
    plain, other = twins(dtype)
    if api == "parametrizations":
        _, other = twins(dtype)[0], twins(dtype)[0]
        for index in (0, 1, 3):
            nn.utils.parametrizations.weight_norm(other[index])
    x = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    converted = apply(checkpoint(plain.state_dict())).checkpoint.content
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(converted, strict=True)
    if dtype in (torch.float32, torch.float64):
        assert bits_equal(other(x), plain(x))
    else:  # torch rounds g and the norm apart in half precision
        torch.testing.assert_close(other(x), plain(x), rtol=torch.finfo(dtype).eps * 8, atol=0.02)


def test_files_leave_the_garbage_collector_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("disable", "enable", "freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *args: pytest.fail("another thread could see it"))
    fold(apply(checkpoint(training_checkpoint()), "weight_norm").checkpoint)
