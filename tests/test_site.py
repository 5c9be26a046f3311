"""The pages that are made from the code say what the code says, and the site leaves no page out."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest
from typer.main import get_command

import wnconvert
from tests import pages
from wnconvert import checkpoint
from wnconvert.scheme import SCHEMES
from wnconvert_cli.exits import MEANINGS
from wnconvert_cli.main import app

DOCS = pages.ROOT / "docs"
CONFIGURATION = (pages.ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def tool(name: str) -> ModuleType:
    """Return a script of the site, which is no module of a package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_mathematics_is_that_of_the_schemes() -> None:
    assert (DOCS / "mathematics.md").read_text(encoding="utf-8") == tool("mathematics").page()


def test_a_formula_that_changes_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    mathematics = tool("mathematics")
    before = mathematics.page()
    module = sys.modules[SCHEMES.get("weight_norm").__module__]
    monkeypatch.setattr(module, "__doc__", (module.__doc__ or "").replace("w = g * v", "w = g * u"))
    assert mathematics.page() != before


def test_the_reference_has_every_command_option_and_exit_code() -> None:
    page = tool("reference").command_line()
    whole = get_command(app)
    assert len(whole.commands) >= 8  # type: ignore[attr-defined]
    for name, command in whole.commands.items():  # type: ignore[attr-defined]
        section = re.search(rf"^## wnconvert {name}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for spelled in [*parameter.opts, *parameter.secondary_opts]:
                    assert f"`{spelled}`" in section[1], (name, spelled)
    assert all(f"| {code} | {meaning} |" in page for code, meaning in MEANINGS.items())


def test_the_reference_has_every_public_name_where_it_is_defined() -> None:
    reference = tool("reference")
    for package, page in ((wnconvert, reference.api()), (checkpoint, reference.files())):
        named = re.findall(r"^::: ([\w.]+)\.(\w+)$", page, re.MULTILINE)
        assert [name for _, name in named] == sorted(package.__all__)
        for module, name in named:
            assert getattr(importlib.import_module(module), name) is getattr(package, name)


def test_every_page_has_its_place() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)$", CONFIGURATION, re.MULTILINE))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert there <= listed
    assert {page.split("/")[0] for page in listed - there} == {"index.md", "reference", "contributing.md", "changes.md"}


def test_the_pages_ask_no_other_server_for_anything() -> None:
    assert "font: false" in CONFIGURATION
    for path in DOCS.rglob("*.md"):
        assert not re.findall(r"!\[[^]]*\]\(http|<script|<iframe|src=\"http", path.read_text(encoding="utf-8")), path
