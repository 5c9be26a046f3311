"""The schemes and layouts that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.padding import Padding

from wnconvert_cli.render.screen import console, facts, table_of
from wnconvert_cli.render.words import safe


def schemes(described: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of schemes."""
    table = table_of("scheme", "formula, parts, options, paper")
    for each in described:
        keeps = "[green]exact[/]" if each["preserving"] else "[yellow]changes the function[/]"
        options = " ".join(_option(name, option) for name, option in each["options"].items())
        lines = [safe(each["formula"]), f"[cyan]{_variants(each)}[/]  [dim]{options}[/]", f"[dim]{each['paper']}[/]"]
        table.add_row()
        table.add_row(f"[bold]{each['name']}[/]\n{keeps}", "\n".join(lines))
    with console() as out:
        out.print(table)


def layouts(described: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of layouts."""
    table = table_of("layout", "software", "told by", "written", "options")
    for each in described:
        options = " ".join(_option(name, {"default": value}) for name, value in each["options"].items())
        told = "--preset" if each["preset"] else "its keys"
        table.add_row(f"[bold]{safe(each['name'])}[/]", safe(each["title"]), told, " ".join(each["written"]), options)
    with console() as out:
        out.print(table)


def scheme(described: Mapping[str, Any]) -> None:
    """Print one scheme in detail."""
    table = facts()
    table.add_row("formula", f"[cyan]{safe(described['formula'])}[/]")
    table.add_row("function", "[green]exact[/]" if described["preserving"] else "[yellow]changed[/]")
    table.add_row("parts", _variants(described))
    if described["state"]:
        table.add_row("buffers", " ".join(described["state"]))
    table.add_row("kept dim", f"{described['dim']} by default")
    table.add_row("paper", described["paper"])
    options = table_of("option", "meaning")
    for name, option in described["options"].items():
        options.add_row(f"[cyan]{_option(name, option)}[/]", safe(option["meaning"]))
    with console() as out:
        out.print(f"[bold]{described['name']}[/]")
        out.print(Padding(table, (1, 0, 1, 2)))
        for paragraph in described["description"]:
            out.print(Padding(safe(paragraph), (0, 0, 1, 2)))
        if described["options"]:
            out.print(Padding(options, (0, 0, 0, 2)))


def _variants(described: Mapping[str, Any]) -> str:
    own = " | ".join(" ".join(parts) for parts in described["parts"])
    return " ".join([own, *(f"(one {name} in common)" for name in described["shared"])])


def _option(name: str, option: Mapping[str, Any]) -> str:
    value = option["default"]
    text = f"{value:g}" if isinstance(value, float) else str(value).lower()
    return f"{name}={text}"
