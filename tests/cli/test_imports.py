"""Code in the current folder, and in files that ``--model`` names: found for one command, and forgotten after it."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import MODEL_CODE, converted, run, run_fresh
from wnconvert_cli.imports import import_named, local_imports


@pytest.fixture(autouse=True)
def _nothing_stays() -> Any:
    path, modules, writes = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    yield
    assert (sys.path, sys.dont_write_bytecode) == (path, writes)
    local = {name: module for name, module in sys.modules.items() if name not in modules}
    here = {name for name, module in local.items() if "/here/" in str(getattr(module, "__file__", ""))}
    assert not here
    assert not {name for name in local if name.startswith("_wnconvert_model")}


#: a module whose net needs one beside it, another folder, and a name that is taken elsewhere
NESTED = """
from torch import nn
{imports}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer(4, 3)

    def forward(self, x):
        from {lazy} import late
        return late(self.layer(x))
"""
LAYERS = "from torch import nn\n\nclass Layer(nn.Linear):\n    pass\n\ndef late(x):\n    return x + 1\n"


def saved(folder: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Module()
    net.layer = torch.nn.Linear(4, 3)
    net.extra = torch.nn.Linear(2, 2)
    torch.save({"layer.weight": net.layer.weight, "layer.bias": net.layer.bias}, folder / "net.pt")


@pytest.mark.parametrize(
    ("files", "spec"),
    [
        ({"deep/net.py": ("from layers import Layer", "layers"), "deep/layers.py": LAYERS}, "deep/net.py:Net"),
        ({"deep/net.py": ("from .layers import Layer", ".layers"), "deep/layers.py": LAYERS}, "deep/net.py:Net"),
        (
            {"a/b.v2/my-net.py": ("from .sub.x import Layer", ".sub.x"), "a/b.v2/sub/x.py": LAYERS},
            "a/b.v2/my-net.py:Net",
        ),
        (
            {"p/__init__.py": "", "p/q/__init__.py": "", "p/q/net.py": ("from ..layers import Layer", "p.layers")}
            | {"p/layers.py": LAYERS},
            "p/q/net.py:Net",
        ),
        (
            {"net.py": ("from layers import Layer", "layers"), "layers.py": LAYERS},
            "net.py:Net",
        ),
        ({"netmodule.py": ("from layers import Layer", "layers"), "layers.py": LAYERS}, "netmodule:Net"),
        ({"pack/__init__.py": LAYERS, "pack/net.py": ("from . import Layer", "pack")}, "pack.net:Net"),
    ],
)
def test_a_model_is_found_by_the_file_it_is_in(folder: Path, files: dict[str, Any], spec: str) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        code = text if isinstance(text, str) else NESTED.format(imports=text[0], lazy=text[1])
        (folder / name).write_text(code)
    saved(folder)
    for _ in range(2):
        outcome = run("apply", "net.pt", "-m", spec, "--dry-run", "--json")
        assert converted(outcome) == ["layer.weight"], outcome.err
    assert not list(folder.rglob("__pycache__"))
    # the next one is another file of the same names
    for name in files:
        (folder / name).write_text((folder / name).read_text().replace("Layer(4, 3)", "Layer(5, 3)"))
    if any("Layer(5, 3)" in (folder / name).read_text() for name in files):
        assert "fits the model strictly: size mismatch" in run("apply", "net.pt", "-m", spec, "--dry-run").error


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        ("", "gone.py:build", "--model names 'gone.py'; there is no such file"),
        ("", "net.py", "must be of the form package.module:factory, or file.py:factory"),
        ("", "net.py:build", "AttributeError: module '_wnconvert_model.net' has no attribute 'build'"),
        ("def build(:", "net.py:build", "failed: SyntaxError"),
        ("raise SystemExit(0)", "net.py:build", "failed: SystemExit: 0"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])", "net.py:build", "failed: SystemExit: 2"),
        ("from .gone import x", "net.py:build", "ModuleNotFoundError: No module named '_wnconvert_model.gone'"),
        ("from torch import nn\nclass Net(nn.Module):\n  def __init__(self, size): ...", "net.py:Net", "TypeError"),
        ("raise ValueError('one\\ntwo')", "net.py:build", "failed: ValueError: one"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(folder: Path, code: str, spec: str, message: str) -> None:
    (folder / "net.py").write_text(code)
    saved(folder)
    outcome = run("apply", "net.pt", "-m", spec)
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
    assert outcome.out == ""


def test_a_whole_model_is_read_by_the_code_in_the_current_folder(folder: Path) -> None:
    """As a console script runs: Python has not put the folder on its path."""
    (folder / "here_net.py").write_text(MODEL_CODE)
    with local_imports():
        torch.save(import_named("here_net").build(), folder / "whole.pt")
    assert "here_net" not in sys.modules
    for command in ("apply", "inspect", "fold"):
        outcome = run(command, "whole.pt" if command != "fold" else "whole.weight_norm.pt", "--trust")
        assert outcome.code == 0, outcome.err
    assert {path.name for path in folder.iterdir()} == {
        "here_net.py",
        "whole.pt",
        "whole.weight_norm.pt",
        "whole.weight_norm.folded.pt",
    }
    safe = "import sys\nsys.path[:] = [entry for entry in sys.path if entry]"
    outcome = run_fresh("apply", "whole.pt", "--trust", "--force", cwd=folder, code=safe)
    assert outcome.code == 0, outcome.err


def test_what_is_installed_comes_before_the_current_folder(folder: Path) -> None:
    (folder / "wave.py").write_text("raise RuntimeError('the wrong one')")
    sys.modules.pop("wave", None)
    with local_imports():
        import wave

        assert "site" not in str(wave.__file__)
        assert pickle.loads(pickle.dumps(wave.Error)) is wave.Error
    assert sys.modules["wave"] is wave  # it is not of the folder, and stays


def test_nothing_stays_where_code_changes_the_path_itself(folder: Path) -> None:
    (folder / "else").mkdir()
    (folder / "else" / "elsewhere_net.py").write_text(MODEL_CODE)
    (folder / "net.py").write_text("import sys\nsys.path.insert(0, 'else')\nfrom elsewhere_net import build")
    torch.manual_seed(0)
    with local_imports():
        torch.save(import_named("net.py").build().state_dict(), folder / "net.pt")
    assert run("apply", "net.pt", "-m", "net.py:build", "--dry-run").code == 0
    assert "elsewhere_net" not in sys.modules
