"""How results look. Nothing else imports rich."""

from wnconvert_cli.render.compared import comparison
from wnconvert_cli.render.converted import conversion
from wnconvert_cli.render.data import json
from wnconvert_cli.render.inspected import findings, inspection
from wnconvert_cli.render.listed import layouts, scheme, schemes
from wnconvert_cli.render.progress import progress
from wnconvert_cli.render.words import bytes_of

__all__ = [
    "bytes_of",
    "comparison",
    "conversion",
    "findings",
    "inspection",
    "json",
    "layouts",
    "progress",
    "scheme",
    "schemes",
]
