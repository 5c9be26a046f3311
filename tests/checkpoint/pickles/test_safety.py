from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint import load
from wnconvert.errors import UnsafePickleError


class Marker:
    """A pickle of this creates a folder when read: harmless, and proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_named_and_never_runs(tmp_path: Path, zipped: bool) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    torch.save({"w": torch.ones(2, 2), "x": Marker(proof)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match=r"mkdir.*--trust"):
        load(path)
    assert not proof.exists()
    load(path, trust=True)
    assert proof.exists(), "the marker must be able to tell"
