"""What is in a file as a page: what stands there, and what a browser makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tests.browser import Browser, needs_chromium
from tests.cli.conftest import report, run
from wnconvert_cli.figures.page import page

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>.weight"


@pytest.fixture
def told(folder: Path) -> Path:
    """A page about weights with hostile names, of a file that differs from another."""
    generator = torch.Generator().manual_seed(0)
    state = {f"layers.{index}.weight": torch.randn(4, index + 2, generator=generator) for index in range(12)}
    state |= {HOSTILE: torch.eye(3) * 50, "zero.weight": torch.zeros(3, 2), "empty.weight": torch.zeros(0, 2)}
    torch.save(state, "a.pt")
    torch.save({**state, "layers.0.weight": state["layers.0.weight"] * 3, f"x{HOSTILE}": torch.ones(2)}, "b.pt")
    outcome = run("inspect", "b.pt", "--against", "a.pt", "--html", "page.html")
    assert (outcome.code, outcome.err) == (0, "")
    return folder / "page.html"


class _Tags(HTMLParser):
    """The names of all elements, and whatever would be loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_needs_nothing_else_and_names_are_texts(told: Path) -> None:
    text = told.read_text("utf-8")
    tags = _Tags(text)
    assert (tags.names.count("script"), tags.names.count("img"), tags.links, tags.handlers) == (1, 0, [], [])
    assert "alert(1)</script>" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert tags.names.count("svg") == 14 + 1


def test_all_that_json_tells_stands_there(folder: Path) -> None:
    torch.save({"model": {"a.weight": torch.ones(2, 2), "x_weight_g": torch.ones(3)}}, "a.pt")
    entry = report(run("inspect", "a.pt", "--distributions", "--json"))
    finding = {"topic": "fusion<", "fqns": ["<b>"] * 30, "problem": "it & that", "remedy": "fold"}
    text = page({**entry, "findings": [finding], "metadata": {"<k>": "<v>"}, "notes": ["a <note>"]}).decode()
    for shown in ("fusion&lt;", "it &amp; that; fold", "and 10 more", "&lt;k&gt;", "&lt;v&gt;", "a &lt;note&gt;"):
        assert shown in text
    assert "x_weight" in text
    bare = page({**entry, "weights": None, "state_dicts": [], "input": "\ud800.pt"}).decode()
    assert "<table" not in bare


@pytest.fixture
def browser(told: Path) -> Iterator[Browser]:
    with Browser() as opened:
        opened.open(told)
        yield opened


NAMES = "[...document.querySelectorAll('#weights tbody tr:not([hidden])')].map(row => row.cells[0].dataset.value)"


def click(browser: Browser, header: str) -> list[str]:
    heads = "[...document.querySelectorAll('#weights th')]"
    browser.run(f"{heads}.find(head => head.textContent === '{header}').querySelector('button').click()")
    found: list[str] = browser.run(NAMES)
    return found


def search(browser: Browser, text: str) -> list[str]:
    box = "document.querySelector('#weights input[type=search]')"
    browser.run(f"{box}.value = '{text}'; {box}.dispatchEvent(new Event('input')); 0")
    found: list[str] = browser.run(NAMES)
    return found


@needs_chromium
def test_a_browser_sorts_and_filters(browser: Browser) -> None:
    layers = [f"layers.{index}.weight" for index in range(12)]
    names = browser.run(NAMES)
    assert names == [*layers, HOSTILE, "zero.weight", "empty.weight"]
    assert [name for name in click(browser, "weight") if name in layers] == layers  # 10 comes after 9
    assert [name for name in click(browser, "weight") if name in layers] == layers[::-1]
    ordered = click(browser, "spectral norm")
    assert (ordered[0], ordered[-2:]) == ("zero.weight", [HOSTILE, "empty.weight"])
    ordered = click(browser, "spectral norm")
    assert (ordered[:1], ordered[-2:]) == ([HOSTILE], ["zero.weight", "empty.weight"])
    assert click(browser, "shape")[0] == "empty.weight"
    assert search(browser, "LAYERS.1 weight") == ["layers.1.weight", "layers.10.weight", "layers.11.weight"]
    assert browser.run("document.querySelector('#weights output').value") == "3 of 15"
    assert search(browser, "nowhere") == []
    assert len(search(browser, "")) == 15
    browser.run("document.querySelector('#weights input[type=checkbox]').click()")
    assert {*browser.run(NAMES)} == {"zero.weight", "empty.weight"}
    rows = "document.querySelectorAll('#differences tbody tr:not([hidden])').length"
    assert browser.run(rows) == 2  # the other table has filters of its own
    assert browser.complaints == []


@needs_chromium
def test_nothing_but_its_own_script_runs_on_the_page(browser: Browser) -> None:
    assert browser.complaints == []
    assert browser.run("document.images.length + document.scripts.length") == 1
    injected = (
        "const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s); 0"
    )
    browser.run(injected)
    assert browser.run("window.hit === undefined")
    assert "Content Security Policy" in "".join(browser.complaints)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_color_schemes_can_be_read(browser: Browser, scheme: str) -> None:
    browser.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    style = "getComputedStyle(document.body)"
    colors = [browser.run(f"{style}.{name}.match(/\\d+/g).map(Number)") for name in ("color", "backgroundColor")]
    text, paper = (_luminance(*color[:3]) for color in colors)
    assert (text > paper) == (scheme == "dark")
    # https://www.w3.org/TR/WCAG22/#contrast-enhanced
    assert (max(text, paper) + 0.05) / (min(text, paper) + 0.05) > 7


def _luminance(*color: float) -> float:
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in (c / 255 for c in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
