"""Everything that can be added is one file of another distribution: `examples/plugin`, installed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


def python(code: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *map(os.path.abspath, filter(None, sys.path))])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


#: commands in one process, for each starts PyTorch: what they print, line by line
COMMANDS = """
import json
from typer.testing import CliRunner
from wnconvert_cli.main import app
for line in {lines!r}:
    result = CliRunner().invoke(app, line.split())
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
"""


def commands(site: Path, cwd: Path, *lines: str) -> list[tuple[int, str, str]]:
    done = python(COMMANDS.format(lines=lines), site, cwd)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def succeed(site: Path, cwd: Path, *lines: str) -> list[str]:
    found = commands(site, cwd, *lines)
    assert [(code, error) for code, _, error in found if code] == []
    return [out for _, out, _ in found]


def plain(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    content = {"conv.weight": torch.randn(4, 3, 2, 2), "conv.bias": torch.randn(4), "norm.weight": torch.ones(4)}
    torch.save(content, folder / "plain.pt")
    return content


def same(path: Path, content: dict[str, torch.Tensor]) -> bool:
    found = torch.load(path)
    return list(found) == list(content) and all(torch.equal(found[key], content[key]) for key in content)


def test_a_scheme(site: Path, tmp_path: Path) -> None:
    content = plain(tmp_path)
    listed, _, inspected, _ = succeed(
        site,
        tmp_path,
        "schemes --json",
        "apply plain.pt -s rms_norm -O eps=1e-6 -o parts.pt",
        "inspect parts.pt --json",
        "fold parts.pt -o folded.pt",
    )
    (scheme,) = (each for each in json.loads(listed) if each["name"] == "rms_norm")
    assert scheme["options"]["eps"]["meaning"].startswith("least root mean square")
    assert list(torch.load(tmp_path / "parts.pt")) == [
        *("conv.weight_rms_scale", "conv.weight_rms_raw", "conv.bias", "norm.weight")
    ]
    assert json.loads(inspected)["state_dicts"][0]["schemes"] == {"rms_norm": 1}
    assert same(tmp_path / "folded.pt", content)


def test_a_layout(site: Path, tmp_path: Path) -> None:
    content = plain(tmp_path)
    *_, inspected, migrated = succeed(
        site,
        tmp_path,
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
    (converted,) = json.loads(migrated)["converted"]
    assert float((module.weight - content["conv.weight"]).detach().abs().max()) == converted["max_abs_error"]
    (summary,) = json.loads(inspected)["state_dicts"]
    assert (summary["layouts"], summary["kept"]) == ({"polar": 1}, {"weight_norm": {"0": 1}})
    assert summary["plain"] == []


def test_a_container_that_can_only_be_read(site: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"tensors": {"fc.weight": [[3, 4], [0, 2]], "fc.bias": [1, 1]}}')
    (tmp_path / "b.json").write_text('{"tensors": {"fc.weight": [[3, 4], [0]]}}')
    inspected, applied, refused, damaged = commands(
        site,
        tmp_path,
        "inspect a.json --json",
        "apply a.json --format torch_zip -o parts.pt",
        "apply a.json -o parts.json",
        "inspect b.json",
    )
    assert json.loads(inspected[1])["format"] == "JSON tensors"
    assert applied[0] == 0, applied
    assert torch.load(tmp_path / "parts.pt")["fc.weight_g"].flatten().tolist() == [5, 2]
    assert refused[0] == 2
    assert refused[2] == "error: JSON tensors is read, but not written: give another container (--format)\n"
    assert damaged[0] == 1
    assert "'b.json' is damaged" in damaged[2]
