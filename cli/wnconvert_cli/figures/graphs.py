"""The graph of a model before and after a conversion, as Graphviz lays it out: what was done is marked.

Nodes are told by their names, which a conversion keeps. Labels come from files that nobody vouches for, so nothing in
them is markup to Graphviz; the page that holds the picture allows no script at all.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnconvert.errors import OptionError
from wnconvert_cli.figures.drawn import text
from wnconvert_cli.lines import printable

if TYPE_CHECKING:
    from torch.fx import Graph, Node

    from wnconvert.report import Report

#: the kinds of what is written, by suffix
KINDS = {".svg": "svg", ".html": "html", ".dot": "dot", ".gv": "dot"}
#: what is marked, and its colors: those of Okabe & Ito 2008, which people with any color vision tell apart
REGIONS = {"inserted": "#9fd5f5", "folded": "#8fd9bf", "opaque": "#d9d9d9", "in place": "#f3cf7a"}
#: with more nodes Graphviz takes minutes
MOST = 1500
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1d232a; background: #fff; color-scheme: light; }
svg { max-width: 100%; height: auto; }
"""
#: characters of a label
_LONGEST = 60


@dataclass(frozen=True)
class Marked:
    """Two graphs, and what is to be marked in them.

    Attributes:
        before: the graph of the model.
        after: that of what became of it.
        verb: ``"inserted"`` or ``"folded"``.
        changed: dotted names of the weights that were converted.
        opaque: dotted names of the modules that the graph does not look into.
    """

    before: Graph
    after: Graph
    verb: str
    changed: frozenset[str]
    opaque: frozenset[str]

    @classmethod
    def of(cls, before: Graph, after: Graph, report: Report, opaque: Collection[str], *, folded: bool) -> Marked:
        """Return what is to be marked, by the report of the conversion."""
        changed = frozenset(each.fqn for each in report.converted)
        return cls(before, after, "folded" if folded else "inserted", changed, frozenset(opaque))

    @cached_property
    def holders(self) -> frozenset[str]:
        """Dotted names of all modules with a converted weight in them."""
        paths = (fqn.split(".") for fqn in self.changed)
        return frozenset(".".join(path[:end]) for path in paths for end in range(1, len(path)))

    def regions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the region of each node that is marked, by its name, in either graph."""
        names = [{node.name for node in graph.nodes} for graph in (self.before, self.after)]
        return self._regions(self.before, names[1]), self._regions(self.after, names[0])

    def _regions(self, graph: Graph, others: Collection[str]) -> dict[str, str]:
        found = {node.name: self._region(node, others) for node in graph.nodes}
        return {name: region for name, region in found.items() if region}

    def _region(self, node: Node, others: Collection[str]) -> str:
        target = str(node.target)
        if node.op == "call_module":
            if target in self.opaque:
                return "in place" if target in self.holders else "opaque"
            return self.verb if target in self.holders else ""
        return self.verb if node.name not in others or (node.op == "get_attr" and target in self.changed) else ""


def kind_of(output: Path) -> str:
    """Return what the suffix of a path says, having checked that it can be made.

    Raises:
        OptionError: it says nothing known, or Graphviz is missing.
    """
    kind = KINDS.get(output.suffix.lower())
    if kind is None:
        raise OptionError(f"output {str(output)!r} has no suffix of a graph; give .svg, .html or .dot")
    if find_spec("graphviz") is None:
        raise OptionError("'graphviz' is not installed; pip install 'wnconvert[graph]'")
    if kind != "dot" and shutil.which("dot") is None:
        raise OptionError("the program 'dot' of Graphviz is not installed (https://graphviz.org); or give -o graph.dot")
    return kind


def drawn(title: str, marked: Marked, kind: str) -> bytes:
    """Return both graphs as a file of that kind.

    Raises:
        OptionError: they are too large to be laid out.
    """
    source = _source(marked)
    if kind == "dot":
        return str(source).encode()
    count = len(marked.before.nodes) + len(marked.after.nodes)
    if count > MOST:
        raise OptionError(f"{count} nodes are too many to be laid out (the most are {MOST}); give -o graph.dot")
    command = ["dot", "-Tsvg"]
    made = subprocess.run(command, input=str(source).encode(), capture_output=True, check=False)
    if made.returncode:
        problem = " ".join(made.stderr.decode(errors="replace").split())
        raise OptionError(f"dot failed on the graph: {problem[:200]}; give -o graph.dot")
    return made.stdout if kind == "svg" else _page(title, made.stdout.decode(), marked)


def _source(marked: Marked) -> Any:
    from graphviz import Digraph

    font = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
    whole = Digraph(
        node_attr={"shape": "box", "style": "filled,rounded", "fillcolor": "white", **font}, graph_attr=font
    )
    whole.attr(bgcolor="white")
    for name, graph, regions in zip(("before", "after"), (marked.before, marked.after), marked.regions(), strict=True):
        with whole.subgraph(name=f"cluster_{name}") as part:
            part.attr(label=name, color="#999999")
            _draw(part, name, graph, regions)
    with whole.subgraph(name="cluster_legend") as part:
        part.attr(label="legend", color="#999999")
        for region in _shown(marked):
            part.node(f"legend {region}", region, fillcolor=REGIONS[region])
    return whole


def _shown(marked: Marked) -> list[str]:
    known = {region for regions in marked.regions() for region in regions.values()}
    return [region for region in REGIONS if region in known]


def _draw(part: Any, name: str, graph: Graph, regions: Mapping[str, str]) -> None:
    from graphviz import escape

    numbers = {node: f"{name} {index}" for index, node in enumerate(graph.nodes)}
    for node, number in numbers.items():
        region = regions.get(node.name, "")
        color = {"fillcolor": REGIONS[region], "tooltip": region} if region else {}
        part.node(number, escape(_label(node)), **color)
        for other in node.all_input_nodes:
            part.edge(numbers[other], number)


def _label(node: Node) -> str:
    """Return what a node calls; of what is called by a name, that."""
    target = node.target
    told = target if isinstance(target, str) else getattr(target, "__name__", None) or str(target)
    label = told if node.op in ("call_module", "get_attr", "placeholder") else f"{told}()"
    label = "output" if node.op == "output" else printable(label)
    return label if len(label) <= _LONGEST else f"...{label[3 - _LONGEST :]}"


def counts(marked: Marked) -> dict[str, int]:
    """Return how many nodes of either graph lie in each region."""
    before, after = marked.regions()
    found = Counter(after.values())
    return {region: max(found[region], Counter(before.values())[region]) for region in REGIONS}


def _page(title: str, svg: str, marked: Marked) -> bytes:
    """Return a page that needs nothing else; dot writes a prolog that HTML has not."""
    lines = [f"<li>{text(line)}</li>" for line in _told(marked)]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{text(title)}</title>",
            f"<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{text(title)}</h1>\n<ul>{''.join(lines)}</ul>",
            svg[svg.index("<svg") :],
            "</body>\n</html>\n",
        ]
    ).encode()


def _told(marked: Marked) -> Iterator[str]:
    yield f"{len(marked.before.nodes)} nodes before, {len(marked.after.nodes)} after"
    yield from (f"{region}: {count} nodes" for region, count in counts(marked).items() if count)
