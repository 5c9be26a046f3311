"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import wnconvert
from wnconvert_cli.main import app

ROOT = Path(__file__).parents[1]
FIRST = (ROOT / "README.md").read_text(encoding="utf-8")
#: the page that goes on where the README ends, with its names
README = FIRST + (ROOT / "docs" / "using.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(blocks("python")) == 7
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert names["modified"] is True


def test_the_python_code_of_the_page_on_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = blocks("python", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"))
    printed = {}
    for code in pieces:
        exec(compile(code, "training.md", "exec"), {})
        printed[code] = capsys.readouterr().out
    initialized, groups, lengths = (
        next(code for code in pieces if f"wnconvert.{name}(" in code)
        for name in ("initialize", "parameter_groups", "Projection")
    )
    centered = next(code for code in pieces if "wnconvert.add_mean_only" in code)
    assert printed[centered] == "True\n"
    assert printed[initialized].startswith("2 initialized, 0 skipped\n  0.weight: mean ")
    assert f"  # {printed[groups].strip()}" in groups
    assert printed[lengths].startswith("tensor([1.0000, 1.0000, 1.0000, 1.0000]")


def test_the_graph_that_is_shown_is_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in blocks("python")[:2]:
        exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    lines = [re.sub(r";  .*", "", line).rstrip() for line in printed[printed.index("def forward") :].splitlines()]
    assert "\n".join(filter(None, lines)) + "\n" == blocks("text")[0]


def test_the_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = ROOT / "examples" / "digits"
    for name in ("digits.pt", "model.py"):
        (tmp_path / name).write_bytes((example / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = [
        line
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ wnconvert") and ("digits" in line or "schemes" in line)
    ]
    assert len(lines) >= 6
    for line in lines:
        arguments = shlex.split(line.removeprefix("$ wnconvert"), comments=True)
        if arguments[0] == "apply":
            arguments.append("--force")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.output)


def test_every_scheme_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE)
    assert sorted(listed) == list(wnconvert.SCHEMES)


def test_the_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", FIRST)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
