"""torch, imported when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wnconvert import lazy, torch_private


def test_what_is_in_it_is_what_is_in_the_module() -> None:
    assert lazy.torch.linalg.vector_norm is torch.linalg.vector_norm
    assert lazy.torch.float16 is torch.float16
    assert lazy.torch_private.weight_norm is torch_private.weight_norm
    with pytest.raises(AttributeError, match="module 'torch' has no attribute 'nothing'"):
        _ = lazy.torch.nothing


def test_it_is_imported_when_it_is_used() -> None:
    code = (
        "import sys; from wnconvert.lazy import torch\n"
        "print('torch' in sys.modules, torch.Size, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False <class 'torch.Size'> True\n"


def test_a_compiled_function_takes_it_for_torch() -> None:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return lazy.torch.linalg.vector_norm(x) if x.dtype == lazy.torch.float32 else x

    x = torch.arange(3.0)
    assert torch.equal(torch.compile(norm, fullgraph=True, backend="eager")(x), norm(x))
