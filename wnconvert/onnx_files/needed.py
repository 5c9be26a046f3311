"""What the extra ``[onnx]`` brings."""

from __future__ import annotations

from importlib.util import find_spec

from wnconvert.errors import OptionError

#: the modules that work on ONNX files takes
MODULES = ("onnx", "onnx_ir", "onnxruntime")


def require_extra() -> None:
    """Check that the extra is installed.

    Raises:
        OptionError: it is not.
    """
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise OptionError(f"{', '.join(map(repr, missing))} is not installed; pip install 'wnconvert[onnx]'")
