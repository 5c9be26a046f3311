"""Which mathematics composes what is in parts: the user's word, then the record of the file, then what is shown."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.conftest import recorded
from wnconvert.checkpoint import Checkpoint, apply, apply_like, fold, migrate, verify
from wnconvert.errors import NothingToConvertError
from wnconvert.reasons import Why
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection, WeightedOp

APIS = {"hook": nn.utils, "parametrization": parametrizations}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("api", APIS)
def test_a_record_counts_for_more_than_keys(api: str) -> None:
    state = APIS[api].weight_norm(nn.Linear(3, 4)).state_dict()
    g, v = (tensor for key, tensor in state.items() if "bias" not in key)
    named = {f"a.{key}": tensor for key, tensor in state.items()}
    folded = fold(recorded(named, a_weight=(WeightNorm(p=1.0), (0,))))
    assert folded.report.notes == ()
    torch.testing.assert_close(folded.checkpoint.content["a.weight"], v * (g / v.abs().sum(1, keepdim=True)))


@pytest.mark.parametrize("api", APIS)
def test_a_record_settles_what_keys_leave_open(api: str) -> None:
    state = APIS[api].spectral_norm(nn.Linear(4, 4)).state_dict()
    named = {f"a.{key}": torch.randn_like(t) if key.endswith(("_u", "_v")) else t for key, t in state.items()}
    with pytest.raises(NothingToConvertError, match="do not show the kept dim"):
        fold(Checkpoint(named, "torch_zip"))
    source = recorded(named, a_weight=(SpectralNorm(), (1,)))
    folded = fold(source)
    expected = fold(Checkpoint(named, "torch_zip"), dim=1)
    torch.testing.assert_close(folded.checkpoint.content["a.weight"], expected.checkpoint.content["a.weight"])
    assert verify(source, folded.checkpoint).equal


@pytest.mark.parametrize("api", APIS)
def test_the_user_counts_for_more_than_a_record_in_either_interface(api: str) -> None:
    applied = apply(Checkpoint({"a.weight": torch.randn(4, 3)}, "torch_zip")).checkpoint
    spelled = applied if api == "hook" else migrate(applied, "parametrization").checkpoint
    with pytest.raises(NothingToConvertError, match=r"do not fit together: g \(4, 1\), v \(4, 3\)"):
        fold(spelled, dim=1)
    with pytest.raises(NothingToConvertError, match="spectral_norm"):
        fold(spelled, scheme="spectral_norm")


def test_a_record_of_other_parts_counts_for_nothing() -> None:
    named = {f"a.{key}": t for key, t in nn.utils.weight_norm(nn.Linear(3, 4)).state_dict().items()}
    known, unknown = recorded(named, a_weight=(SpectralNorm(), (0,))), Checkpoint(named, "torch_zip")
    weight = fold(known).checkpoint.content["a.weight"]
    assert torch.equal(weight, fold(unknown).checkpoint.content["a.weight"])
    assert verify(known, migrate(known, "parametrization").checkpoint).equal
    again = apply_like(Checkpoint({"a.weight": weight}, "torch_zip"), known)
    assert [entry.scheme for entry in again.report.converted] == ["weight_norm"]


def test_a_model_names_the_ops_of_what_is_skipped() -> None:
    ops = [WeightedOp(f"{name}.weight", ("linear",), (4, 3), torch.float32, (0,)) for name in "ab"]
    tensors = {f"{name}.weight": torch.randn(4, 3) for name in "ab"}
    applied = apply(Checkpoint(tensors, "torch_zip"), "unit_norm", ops=ops).checkpoint
    report = fold(applied, ops=ops, selection=Selection(exclude=("a",))).report
    assert [(entry.fqn, entry.op, entry.reason.why) for entry in report.skipped] == [
        ("a.weight", "linear", Why.NOT_CHOSEN)
    ]
