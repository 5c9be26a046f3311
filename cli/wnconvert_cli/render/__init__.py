"""How results look. Nothing else imports rich."""

from wnconvert_cli.render.against import against
from wnconvert_cli.render.compared import comparison
from wnconvert_cli.render.converted import conversion
from wnconvert_cli.render.exported import export
from wnconvert_cli.render.graphed import graph
from wnconvert_cli.render.inspected import findings, inspection
from wnconvert_cli.render.listed import layouts, scheme, schemes
from wnconvert_cli.render.measured import distributions
from wnconvert_cli.render.progress import advancing, progress
from wnconvert_cli.render.summed import all_of, counts, loaders, one_of_several, partial
from wnconvert_cli.render.words import bytes_of

__all__ = [
    "advancing",
    "against",
    "all_of",
    "bytes_of",
    "comparison",
    "conversion",
    "counts",
    "distributions",
    "export",
    "findings",
    "graph",
    "inspection",
    "layouts",
    "loaders",
    "one_of_several",
    "partial",
    "progress",
    "scheme",
    "schemes",
]
