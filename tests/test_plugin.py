"""Everything that can be added is one file of another distribution: `examples/plugin`, installed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"


def install(folder: Path) -> Path:
    """Lay the example down as an installer does: its package, and what its distribution says of itself."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = project["name"].replace("-", "_")
    shutil.copytree(EXAMPLE / name, folder / name)
    info = folder / f"{name}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines: list[str] = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def python(code: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=reaching(site), capture_output=True, text=True)


def reaching(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *map(os.path.abspath, filter(None, sys.path))])}


#: runs what it is told on stdin, for each process starts PyTorch anew
SERVER = """
import contextlib, io, json, os, sys
from typer.testing import CliRunner
from wnconvert_cli.main import app

for request in sys.stdin:
    folder, command, code = json.loads(request)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    answer = [0, out.getvalue(), ""]
    if command:
        result = CliRunner().invoke(app, command.split())
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        answer = [result.exit_code, result.stdout, result.stderr]
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Installed:
    """A process in which the example is installed."""

    process: subprocess.Popen[str]
    folder: Path

    def ask(self, command: str = "", code: str = "") -> tuple[int, str, str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([str(self.folder), command, code]) + "\n")
        self.process.stdin.flush()
        code, out, error = json.loads(self.process.stdout.readline())
        return code, out, error

    def do(self, *commands: str) -> list[str]:
        """Run commands that must succeed; return what they print."""
        found = [self.ask(command) for command in commands]
        assert [(code, error) for code, _, error in found if code] == []
        return [out for _, out, _ in found]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    site = install(tmp_path_factory.mktemp("site"))
    arguments = [sys.executable, "-W", "ignore", "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, env=reaching(site), **pipes) as started:
        yield started
        assert started.stdin
        started.stdin.close()


@pytest.fixture
def installed(process: subprocess.Popen[str], tmp_path: Path) -> Installed:
    return Installed(process, tmp_path)


def plain(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    content = {"conv.weight": torch.randn(4, 3, 2, 2), "conv.bias": torch.randn(4), "norm.weight": torch.ones(4)}
    torch.save(content, folder / "plain.pt")
    return content


def same(path: Path, content: dict[str, torch.Tensor]) -> bool:
    found = torch.load(path)
    return list(found) == list(content) and all(torch.equal(found[key], content[key]) for key in content)


def test_a_scheme(installed: Installed, tmp_path: Path) -> None:
    content = plain(tmp_path)
    listed, _, inspected, _ = installed.do(
        "schemes --json",
        "apply plain.pt -s rms_norm -O eps=1e-6 -o parts.pt",
        "inspect parts.pt --json",
        "fold parts.pt -o folded.pt",
    )
    (scheme,) = (each for each in json.loads(listed)["schemes"] if each["name"] == "rms_norm")
    assert scheme["options"]["eps"]["meaning"].startswith("least root mean square")
    assert list(torch.load(tmp_path / "parts.pt")) == [
        *("conv.weight_rms_scale", "conv.weight_rms_raw", "conv.bias", "norm.weight")
    ]
    assert json.loads(inspected)["files"][0]["state_dicts"][0]["schemes"] == {"rms_norm": 1}
    assert same(tmp_path / "folded.pt", content)


def test_a_layout(installed: Installed, tmp_path: Path) -> None:
    content = plain(tmp_path)
    *_, inspected, migrated = installed.do(
        "apply plain.pt --layout polar -o polar.pt",
        "fold polar.pt -o folded.pt",
        "migrate polar.pt --to hook -o hook.pt",
        "fold hook.pt -o from_hook.pt",
        "verify polar.pt plain.pt",
        "inspect polar.pt --json",
        "migrate polar.pt --to parametrization -o parametrized.pt --json",
    )
    polar = torch.load(tmp_path / "polar.pt")
    assert list(polar) == ["conv.magnitude", "conv.direction", "conv.bias", "norm.weight"]
    assert polar["conv.magnitude"].shape == (4,)
    assert same(tmp_path / "folded.pt", content)
    hook = torch.load(tmp_path / "hook.pt")
    assert {key: tuple(tensor.shape) for key, tensor in hook.items() if "weight_" in key} == {
        "conv.weight_g": (4, 1, 1, 1),
        "conv.weight_v": (4, 3, 2, 2),
    }
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 2))
    module.load_state_dict(
        {
            key.removeprefix("conv."): tensor
            for key, tensor in torch.load(tmp_path / "parametrized.pt").items()
            if key.startswith("conv.")
        }
    )
    (converted,) = json.loads(migrated)["files"][0]["converted"]
    assert float((module.weight - content["conv.weight"]).detach().abs().max()) == converted["max_abs_error"]
    (summary,) = json.loads(inspected)["files"][0]["state_dicts"]
    assert (summary["layouts"], summary["kept_dim"]) == ({"polar": 1}, {"weight_norm": {"0": 1}})
    assert summary["plain"] == []


def test_a_container_that_can_only_be_read(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"tensors": {"fc.weight": [[3, 4], [0, 2]], "fc.bias": [1, 1]}}')
    (tmp_path / "b.json").write_text('{"tensors": {"fc.weight": [[3, 4], [0]]}}')
    inspected, applied = installed.do("inspect a.json --json", "apply a.json --format torch_zip -o parts.pt")
    refused, damaged = installed.ask("apply a.json -o parts.json"), installed.ask("inspect b.json")
    assert json.loads(inspected)["files"][0]["format"] == "JSON tensors"
    assert applied
    assert torch.load(tmp_path / "parts.pt")["fc.weight_g"].flatten().tolist() == [5, 2]
    assert refused[0] == 2
    assert refused[2] == "error: JSON tensors is read, but not written: give another container (--format)\n"
    assert damaged[0] == 1
    assert "'b.json' is damaged" in damaged[2]


def test_a_command(installed: Installed, tmp_path: Path) -> None:
    plain(tmp_path)
    counted, described = installed.do("count plain.pt", "--help")
    assert counted == f"{4 * 3 * 2 * 2 + 4 + 4}\n"
    assert "Count the numbers in a checkpoint." in described


OP = """
import torch, wnconvert
from torch import nn
from wnconvert_example.gated_linear import gated_linear

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 13.0).view(3, 4))

    def forward(self, x):
        return gated_linear(x, self.weight)

model, x = Gated(), torch.ones(2, 4)
(found,) = wnconvert.find_weighted_ops(model)
converted, report = wnconvert.apply(wnconvert.trace(model), "rms_norm")
folded, _ = wnconvert.fold(converted)
print(found.ops, found.output_dims, list(converted.state_dict()), list(folded.state_dict()))
print(torch.equal(converted(x), model(x)), torch.equal(folded(x), model(x)))
"""


def test_a_weighted_op(installed: Installed, tmp_path: Path) -> None:
    _, out, _ = installed.ask(code=OP)
    assert out.splitlines() == [
        "('gated_linear',) (0,) ['weight_rms_scale', 'weight_rms_raw'] ['weight']",
        "True True",
    ]


BROKEN = """
[wnconvert.schemes]
weight_norm = wnconvert_broken:Other
[wnconvert.layouts]
unfinished = wnconvert_broken:Unfinished
[wnconvert.formats]
gone = wnconvert_broken:Gone
[wnconvert.ops]
wrong = wnconvert_broken:Wrong
[wnconvert.commands]
failing = wnconvert_broken.failing:command
"""
#: what is said of each, after its kind and name
SAID = {
    "scheme 'weight_norm'": "scheme 'weight_norm' is already registered by",
    "layout 'unfinished'": "it has no 'title' and no 'compose' and no 'find'",
    "format 'gone'": "AttributeError: module 'wnconvert_broken' has no attribute 'Gone'",
    "weighted op 'wrong'": "OptionError: weighted op 'Wrong' has no name, targets, weight",
    "command 'failing'": "ModuleNotFoundError: No module named 'wnconvert_broken.failing'",
}
CODE = """
from wnconvert.checkpoint import Layout
from wnconvert.schemes.weight_norm import WeightNorm

class Other(WeightNorm):
    pass

class Unfinished(Layout):
    name = "unfinished"

def __getattr__(name):
    if name == "Wrong":
        from wnconvert import WeightedOpRule
        type(name, (WeightedOpRule,), {})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    folder = install(tmp_path / "site")
    (folder / "wnconvert_broken").mkdir()
    (folder / "wnconvert_broken" / "__init__.py").write_text(CODE)
    info = folder / "wnconvert_broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wnconvert-broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(BROKEN)
    return folder


def said_of(kind: str) -> str:
    return f"the {kind} of the installed wnconvert-broken 0.1 ("


def test_what_is_broken_is_named_each_time_and_the_rest_works(broken: Path, tmp_path: Path) -> None:
    plain(tmp_path)
    asked = {
        "apply plain.pt -s rms_norm -o parts.pt": set(SAID) - {"weighted op 'wrong'"},  # a file has no ops
        "schemes": {"scheme 'weight_norm'", "command 'failing'"},
    }
    for command, kinds in asked.items():
        done = python(f"from wnconvert_cli.main import app\napp({command.split()})", broken, tmp_path)
        assert done.returncode == 0, done.stderr
        warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert len(warned) == len(kinds), done.stderr
        for kind in kinds:
            (line,) = (each for each in warned if each.startswith(f"warning: {said_of(kind)}"))
            assert SAID[kind] in line
    assert list(torch.load(tmp_path / "parts.pt"))[:2] == ["conv.weight_rms_scale", "conv.weight_rms_raw"]


def test_what_is_broken_is_a_warning_in_python_too(broken: Path, tmp_path: Path) -> None:
    code = (
        "import warnings, torch, wnconvert\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        (found,) = wnconvert.find_weighted_ops(torch.fx.symbolic_trace(torch.nn.Linear(2, 2)))\n"
        "for each in caught:\n"
        "    print(each.category.__name__, each.message)\n"
    )
    done = python(code, broken, tmp_path)
    (line,) = done.stdout.splitlines()
    assert line.startswith("WnconvertWarning " + said_of("weighted op 'wrong'")), done.stderr
    assert SAID["weighted op 'wrong'"] in line
