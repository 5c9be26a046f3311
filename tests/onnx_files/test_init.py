"""The public names of the package, and that none of them takes torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

from wnconvert import onnx_files

PLAIN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }
"""


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


def test_nothing_to_fold_takes_no_torch(tmp_path: Path) -> None:
    """The process that is confined to the memory of a small model has no room for it."""
    file = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(PLAIN), file)
    code = (
        "import sys; from pathlib import Path; from wnconvert.onnx_files.conversion import _fold\n"
        "try: _fold(Path(sys.argv[1]), None, False, None, '')\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nothing to convert")
    assert done.stdout.endswith("False\n")
