"""What is missing is said, with the way to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.onnx_files.graphs import one_layer, saved
from wnconvert.errors import OptionError
from wnconvert.onnx_files import fold_file, needed
from wnconvert.onnx_files.needed import require_extra


def test_the_extra_is_installed_here() -> None:
    require_extra()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needed, "find_spec", lambda name: None if name != "onnx" else object())
    message = r"'onnx_ir', 'onnxruntime' is not installed; pip install 'wnconvert\[onnx\]'"
    with pytest.raises(OptionError, match=message):
        fold_file(saved(one_layer(), tmp_path / "m.onnx"), tmp_path / "out.onnx")
