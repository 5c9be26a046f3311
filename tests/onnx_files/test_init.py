"""The public names of the package, and that none of them takes torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wnconvert import onnx_files


def test_the_names_are_there() -> None:
    for name in onnx_files.__all__:
        assert getattr(onnx_files, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = onnx_files.other


def test_folding_takes_no_torch() -> None:
    code = (
        "import sys; from wnconvert.onnx_files import FoldWeightsPass, fold, proof, writing;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
