"""What a shell completes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import NO_TORCH, run_fresh
from wnconvert_cli.options import complete_format, complete_layout


def test_layouts_are_completed() -> None:
    assert complete_layout("spectral_norm_b") == ["spectral_norm_bar", "spectral_norm_before_1"]
    assert complete_format("torch_z") == ["torch_zip"]


def test_completion_never_imports_torch(tmp_path: Path) -> None:
    setup = (
        "import os\n"
        "os.environ.update(_WNCONVERT_COMPLETE='complete_bash', COMP_CWORD='3',"
        " COMP_WORDS='wnconvert apply --scheme weight')\n"
    )
    done = run_fresh(cwd=tmp_path, code=NO_TORCH + setup)
    assert done.out.split() == ["weight_norm", "weight_standardization"]
