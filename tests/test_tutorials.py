"""What a tutorial shows is what happens: all of its code and all of its commands are run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import pages
from wnconvert.checkpoint import FORMATS, LAYOUTS
from wnconvert.scheme import SCHEMES

TUTORIALS = sorted((pages.ROOT / "docs" / "tutorials").glob("*.md"))
#: packages of the extra `oracles`
ORACLES = ("timm", "transformers", "peft")


def marked(page: Path) -> object:
    text = page.read_text(encoding="utf-8")
    foreign = any(f"<!-- needs: {each} -->" in text for each in ORACLES)
    return pytest.param(page, id=page.stem, marks=[pytest.mark.oracle] if foreign else [])


@pytest.mark.parametrize("page", [marked(page) for page in TUTORIALS])
def test_the_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (SCHEMES, LAYOUTS, FORMATS):
        registry.get(next(iter(registry)))
        monkeypatch.setattr(registry, "_things", dict(registry._things))
    missing = pages.run(page, tmp_path)
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)
    if missing:
        pytest.skip(f"all ran but the blocks that need {', '.join(missing)}")


def test_there_is_one_for_each_user() -> None:
    assert [page.stem for page in TUTORIALS] == [
        "deploying", "dora", "passes", "plugin", "standardized", "training", "vocoder", "wav2vec2",
    ]  # fmt: skip


def test_a_block_that_fails_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nassert False\n```\n")
    with pytest.raises(AssertionError):
        pages.run(page, tmp_path)
    page.write_text("```console\n$ wnconvert inspect nowhere.pt\n```\n")
    with pytest.raises(AssertionError, match="nowhere"):
        pages.run(page, tmp_path)
    page.write_text("```bash\nls\n```\n")
    with pytest.raises(ValueError, match="bash"):
        pages.run(page, tmp_path)
