"""What holds of every layout."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wnconvert
from wnconvert.checkpoint.layout import LAYOUTS, Layout
from wnconvert.scheme import SCHEMES

ROOT = Path(wnconvert.__file__).parent
COMMANDS = ROOT.parent / "cli" / "wnconvert_cli"
# `checkpoint/adapters` is left out below: all of it is for the files of PEFT, as one of the layouts is
#: names that mean something else too: one of torch's interfaces, a part of a scheme, a number of torch.finfo
AMBIGUOUS = {"parametrization", "gain", "bit"}


@pytest.fixture(params=list(LAYOUTS))
def kind(request: pytest.FixtureRequest) -> type[Layout]:
    return LAYOUTS.get(request.param)


def test_it_says_what_it_is(kind: type[Layout]) -> None:
    layout = kind()
    assert kind.__doc__
    assert layout.title
    assert layout.spells.keys() <= layout.direction.keys()
    assert layout.seen_as is None or LAYOUTS.get(layout.seen_as).hint
    if layout.api or layout.repeatable:
        assert set(layout.spells) <= set(SCHEMES)
        assert all(SCHEMES.get(scheme).variants.get(parts) is not None for scheme, parts in layout.spells.items())


def test_its_name_stands_in_its_own_file_alone(kind: type[Layout]) -> None:
    modules = [path for path in (*ROOT.rglob("*.py"), *COMMANDS.rglob("*.py")) if path.parent.name != "adapters"]
    assert len(modules) > 100
    found = {path.relative_to(ROOT.parent).as_posix() for path in modules if kind.name in constants(path)}
    own = f"{kind.__module__.replace('.', '/')}.py"
    assert found - {own} == set() or kind.name in AMBIGUOUS


def constants(path: Path) -> set[object]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_none_needs_torch_to_be_found() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom wnconvert.checkpoint import LAYOUTS; print(len(list(LAYOUTS)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(list(LAYOUTS))
