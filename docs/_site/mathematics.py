"""Writes `docs/mathematics.md` from the schemes' own docstrings: `python docs/_site/mathematics.py`.

The formulas stand in the files of the schemes alone; a test compares the page with what this gives.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

from wnconvert.scheme import SCHEMES

PAGE = Path(__file__).parents[1] / "mathematics.md"
HEAD = """# Mathematics

What each scheme computes. This page is made by `python docs/_site/mathematics.py` from the docstrings of the schemes,
where the mathematics is written once, and the figure by `python docs/_site/figures.py` from the schemes themselves.

`w` is the weight that an op reads; sums, norms, means and variances go over the reduced dims, in most layers all but
that of the output channels, so each has one value for each output channel. `fan_in` is how many elements they go over.
*Split* takes a plain weight to the parts, and *compose* takes these to the weight. A scheme that **keeps the function**
gives each weight back bit for bit.

![The weight vectors of one layer before, and after each scheme](images/schemes.svg)

Each panel shows the same 24 weight vectors of two elements, split by the scheme and composed: gray as they were, blue
as they are. Where blue covers gray, the function is kept. The red arrows are what a step of gradient descent on the
parts does to the weights, with the same gradient for each of them. It is too short to be seen where the
scheme takes out just what the gradient asks for (the mean), or divides it by a large singular value.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(section(name) for name in sorted(SCHEMES))


def section(name: str) -> str:
    """Return what the docstrings of a scheme say."""
    kind = SCHEMES.get(name)
    module = inspect.getdoc(importlib.import_module(kind.__module__)) or ""
    title, *rest = module.split("\n\n")
    formula = next(each for each in rest if each.startswith("    "))
    prose = "\n\n".join(each for each in rest if each is not formula)
    parts = " or ".join(", ".join(f"`{part}`" for part in variant) for variant in kind.variants)
    lines = [f"\n## {name}\n", linked(title.replace("\n", " ")), "", "```text", inspect.cleandoc(formula), "```", ""]
    lines += [linked(prose), "", f"- Parts: {parts}.", f"- As code: `{kind.formula}`."]
    lines.append(f"- Keeps the function: {'yes' if kind().preserving else 'no'}, with its default options.")
    options = [f"`{each.name}={each.default!r}`" for each in dataclasses.fields(kind)]
    if options:
        lines.append(f"- Options: {', '.join(options)}.")
    return "\n".join(lines) + "\n"


def linked(text: str) -> str:
    """Return reStructuredText's code and bare addresses as Markdown."""
    text = text.replace("``", "`")
    return re.sub(r"(?<![(\[<])(https?://[^\s,)]*[^\s,.)])", r"<\1>", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
