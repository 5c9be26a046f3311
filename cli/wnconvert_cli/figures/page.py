"""What is in a file as one page of HTML, which needs nothing else: no network, no other file.

It is made of what ``--json`` tells. Names come from files that nobody vouches for: all text is escaped, and the page
allows no script but its own, whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from wnconvert_cli.figures.drawn import histogram, overview, text

#: names that are listed of what may have thousands
_MOST = 20


class Cell(NamedTuple):
    """A cell of a table that can be sorted: what is shown, and by what it is sorted."""

    shown: str
    value: str = ""


def page(told: Mapping[str, Any]) -> bytes:
    """Return the page of a file.

    Args:
        told: what ``--json`` has of it; see ``docs/json.md``.
    """
    folder = files(__package__)
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = text(told["input"])
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>",
        _about(told),
        _findings(told["findings"]),
        *map(_state_dict, told["state_dicts"]),
        _weights(told["weights"] or ()),
        _against(told["against"]),
        f"<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(filter(None, parts)).encode()


def _about(told: Mapping[str, Any]) -> str:
    lines = [f'<p class="faint">{text(told["format"])}, {told["bytes"]:,} bytes</p>']
    lines += [f"<p>{text(note)}</p>" for note in told["notes"]]
    if told["metadata"]:
        lines.append(_facts({key: text(value) for key, value in told["metadata"].items()}))
    return "\n".join(lines)


def _facts(facts: Mapping[str, str]) -> str:
    """Return a table of labels, and values that are HTML already."""
    rows = (f'<tr><th scope="row">{text(label)}</th><td>{value}</td></tr>' for label, value in facts.items())
    return f'<table class="facts">{"".join(rows)}</table>'


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    found = (
        f'<div class="finding"><b>{text(each["topic"])}</b>: {text(each["problem"])}; {text(each["remedy"])}'
        f'<div class="faint name">{_names(each["fqns"])}</div></div>'
        for each in findings
    )
    return "\n".join(["<h2>Beware</h2>", *found])


def _names(names: Sequence[str]) -> str:
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(map(text, names[:_MOST])) + more


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {text(name)}" for name, count in counts.items()) or "none"


def _state_dict(told: Mapping[str, Any]) -> str:
    facts = {
        "tensors": f"{told['tensors']} ({_counts(told['dtypes'])}), {told['bytes']:,} bytes",
        "normalized": _counts(told["schemes"]),
        "layouts": _counts(told["layouts"]),
        "plain weights": str(len(told["plain"])),
    }
    if told["adapter"]:
        facts["adapter"] = text(told["adapter"])
    if told["folded"]:
        facts["folded"] = _counts(told["folded"])
    if told["unknown"]:
        facts["unknown"] = f'<span class="warn name">{_names(told["unknown"])}</span>'
    return f"<h2>{text(told['path']) or 'State dict'}</h2>\n{_facts(facts)}"


def _weights(weights: Sequence[Mapping[str, Any]]) -> str:
    if not weights:
        return ""
    headers = {"weight": False, "shape": True, "dtype": False, "scheme": False, "norms": True, "least": True}
    headers |= {"largest": True, "g": True, "spectral norm": True, "dead": True, "duplicate": True, "non-finite": True}
    rows = ((_is_odd(each), _row(each)) for each in weights)
    odd = '<label><input type="checkbox"> only what is odd</label>'
    legend = "From the least to the largest norm of a channel, with the median (blue), and the spectral norm (green)"
    lead = f'<h2>Weights</h2>\n<p class="faint">{legend}; logarithmic, with a line at each power of ten.</p>'
    return "\n".join([lead, overview(weights), _table("weights", headers, rows, odd)])


def _non_finite(each: Mapping[str, Any]) -> int:
    return int(each["norms"]["non_finite"]) if each["norms"] else 0


def _is_odd(each: Mapping[str, Any]) -> bool:
    return bool(each["problem"] or each["dead"] or each["duplicate"] or _non_finite(each))


def _row(each: Mapping[str, Any]) -> list[Cell]:
    size = 1
    for length in each["shape"]:
        size *= length
    norms, g = each["norms"] or {}, each["g"] or {}
    problem = f'<div class="warn">{text(each["problem"])}</div>' if each["problem"] else ""
    return [
        Cell(text(each["name"]) + problem, each["name"]),
        Cell("\N{MULTIPLICATION SIGN}".join(map(str, each["shape"])), str(size)),
        Cell(text(each["dtype"]), each["dtype"]),
        Cell(text(each["scheme"] or ""), each["scheme"] or ""),
        Cell(histogram(norms, "bars"), _exact(norms.get("median"))),
        _number(norms.get("min")),
        _number(norms.get("max")),
        Cell(histogram(g, "bars g"), _exact(g.get("median"))),
        _number(each["sigma"]),
        _count(each["dead"], "warn"),
        _count(each["duplicate"], "warn"),
        _count(_non_finite(each), "bad"),
    ]


def _against(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    headers = {"tensor": False, "status": False, "shape": False, "dtype": False, "norm": True, "change": True}
    headers |= {"angle": True, "widest angle": True}
    rows = ((each["status"] != "changed", _difference(each)) for each in told["differing"])
    summary = f"<p>{told['equal']} of {told['compared']} tensors are equal.</p>"
    table = _table("differences", headers, rows) if told["differing"] else ""
    return f"<h2>Against {text(told['file'])}</h2>\n{summary}\n{table}"


def _difference(each: Mapping[str, Any]) -> list[Cell]:
    shapes = [None if shape is None else "\N{MULTIPLICATION SIGN}".join(map(str, shape)) for shape in each["shapes"]]
    color = {"missing": "bad", "extra": "warn"}.get(each["status"], "")
    change, norm = each["change"], each["norms"][0]
    share = "" if change is None else f"{change:.2%}" if change >= 1e-4 or not change else f"{change:.1e}"
    angles = (
        Cell("" if angle is None else f"{angle:.3g}\N{DEGREE SIGN}", _exact(angle))
        for angle in (each["angle"], each["angle_max"])
    )
    return [
        Cell(text(each["name"]), each["name"]),
        Cell(f'<span class="{color}">{each["status"]}</span>', each["status"]),
        _both(shapes),
        _both(each["dtypes"]),
        _number(norm),
        Cell(share, _exact(change)),
        *angles,
    ]


def _both(values: Sequence[str | None]) -> Cell:
    """Return what this file has, behind what the other has where that is something else."""
    shown = " \N{RIGHTWARDS ARROW} ".join(dict.fromkeys(value for value in reversed(values) if value is not None))
    return Cell(text(shown), shown)


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _number(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.4g}", _exact(value))


def _count(count: int, color: str) -> Cell:
    return Cell(f'<span class="{color}">{count}</span>' if count else "", str(count))


def _table(name: str, headers: Mapping[str, bool], rows: Iterable[tuple[bool, Sequence[Cell]]], tools: str = "") -> str:
    """Return a table that can be sorted and filtered.

    Args:
        name: what its rows are.
        headers: of the columns, and whether each holds numbers.
        rows: whether each is odd, and its cells.
        tools: what else to filter by.
    """
    kinds = [' class="number"' if numeric else "" for numeric in headers.values()]
    heads = [
        f'<th scope="col"{kind}><button type="button">{header}</button></th>'
        for header, kind in zip(headers, kinds, strict=True)
    ]
    kinds[0] = ' class="name"'
    search = f'<input type="search" placeholder="filter {name}" aria-label="filter {name}">'
    lines = [
        f'<section class="sortable" id="{name}">',
        f'<div class="tools">{search}{tools}<output class="faint"></output></div>',
        f'<div class="scroll" tabindex="0"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>',
    ]
    for odd, cells in rows:
        made = (
            f'<td{kind} data-value="{text(cell.value)}">{cell.shown}</td>'
            for kind, cell in zip(kinds, cells, strict=True)
        )
        lines.append(f"<tr{' data-odd=1' if odd else ''}>{''.join(made)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>", "</section>"])
