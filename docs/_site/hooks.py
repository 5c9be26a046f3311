"""What mkdocs does beyond turning the pages of this folder into a site: `mkdocs.yml` names this file.

The first page is the README, and the notes for contributors and on changes come from beside it; the pages of reference
are made from the code. Nothing of it is written into the folder.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "cli"), str(ROOT)]

import reference  # noqa: E402  # it stands beside this file, which mkdocs runs as a script

#: pages from files that stand where a code host looks for them
OUTSIDE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in the folder."""
    made = {page: inside((ROOT / source).read_text(encoding="utf-8")) for page, source in OUTSIDE.items()}
    made |= {
        "reference/command-line.md": reference.command_line(),
        "reference/python.md": reference.api(),
        "reference/files.md": reference.files(),
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside of the folder lead to the pages made of them."""
    for made, source in OUTSIDE.items():
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){source}", rf"](\1{made}", markdown)
    return markdown


def inside(text: str) -> str:
    """Return a text from beside the folder with its links as they are inside of it."""
    for made, source in OUTSIDE.items():
        text = text.replace(f"]({source}", f"]({made}")
    return re.sub(r"(\]\(|src=\")docs/", r"\1", text)
