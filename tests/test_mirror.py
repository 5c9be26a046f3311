"""The tests stand where their code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wnconvert

DEFINITION = re.compile(r"^(def|class) ", re.MULTILINE)
ROOT = Path(__file__).parents[1]
TESTS = {Path(wnconvert.__file__).parent: ROOT / "tests", ROOT / "cli" / "wnconvert_cli": ROOT / "tests" / "cli"}
#: data without behaviour, and names that `test_init` compares
TESTED_ELSEWHERE = {"checkpoint/__init__.py", "checkpoint/inspecting/summary.py"}


def modules() -> list[tuple[Path, Path]]:
    """Return each module that defines something, with its package."""
    found = [(package, path) for package in TESTS for path in sorted(package.rglob("*.py"))]
    return [(package, path) for package, path in found if DEFINITION.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda path: path.stem)
def test_every_module_has_a_test_file_of_its_name(package: Path, path: Path) -> None:
    place = path.relative_to(package)
    if place.as_posix() in TESTED_ELSEWHERE:
        return
    folder = TESTS[package] / place.parent
    name = path.stem.strip("_")
    assert [*folder.glob(f"test_{name}.py"), *folder.glob(f"test_{name}_*.py")]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_of_tests_is_too_long_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
