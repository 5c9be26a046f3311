from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint.storage.claims import check_claims, claimed
from wnconvert.checkpoint.storage.limits import LEAST
from wnconvert.errors import CheckpointError

ONE = torch.ones(1)


def test_elements_are_counted_though_torch_would_overflow() -> None:
    assert claimed(ONE.expand(1 << 40)) == 4 << 40
    assert claimed(ONE.expand(1 << 30, 1 << 31)) == 4 << 61
    assert claimed(ONE.expand(1 << 62)) == 4 << 62


def test_one_tensor_or_many_may_not_claim_much_more_than_there_is() -> None:
    check_claims([("a", ONE.expand(LEAST // 4))], Path("x"))
    with pytest.raises(CheckpointError, match="'x': 'a' claims 67108868 bytes, but has only 4"):
        check_claims([("'a'", ONE.expand(LEAST // 4 + 1))], Path("x"))
    many = [(str(number), ONE.expand(1000, 1000 + number)) for number in range(30)]
    with pytest.raises(CheckpointError, match="29 claims"):
        check_claims(many, Path("x"))


def test_tied_tensors_count_once_and_what_is_stored_counts_for_them() -> None:
    check_claims([(str(number), ONE.expand(1000, 1000)) for number in range(100)], Path("x"))
    large = torch.empty(LEAST // 16)
    check_claims([(str(number), large[number:]) for number in range(15)], Path("x"))
    with pytest.raises(CheckpointError):
        check_claims([(str(number), large[number:]) for number in range(30)], Path("x"))
    check_claims([(str(number), large[number:]) for number in range(30)], Path("x"), size=LEAST)


def test_what_has_no_memory_claims_none() -> None:
    check_claims([("meta", torch.empty(1 << 59, device="meta")), ("sparse", torch.eye(3).to_sparse())], Path("x"))
