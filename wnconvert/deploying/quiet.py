"""What torch says of its own work while it exports is not what the user asked."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what torch prints of graphs and packages; what is wrong is in its exceptions, too."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
