"""State dicts that nobody would write: conversions give reports or errors on purpose, and inspecting always ends."""

from __future__ import annotations

import contextlib
import json

import torch
from hypothesis import given, settings, strategies as st

from tests.checkpoint.conftest import CASES, checkpoint
from wnconvert.checkpoint import apply, difference, fold, inspect
from wnconvert.errors import NothingToConvertError
from wnconvert.scheme import SCHEMES

PARTS = sorted({part for name in SCHEMES for parts in SCHEMES.get(name).variants for part in parts} | {"network_g"})
KEYS = st.sampled_from(["weight", "network_g", *(f"weight_{part}" for part in PARTS)])
VALUES = (0.0, -0.0, 1.0, -2.5, 1e-30, 3e38, float("inf"), float("nan"))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 0]), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float16, torch.float64, torch.int32]))
    fill = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3)
    values = torch.tensor(draw(fill), dtype=torch.float64).nan_to_num(0.0) if dtype == torch.int32 else draw(fill)
    flat = torch.as_tensor(values, dtype=torch.float64)
    count = int(torch.Size(shape).numel())
    repeated = flat.repeat(count // len(flat) + 1)[:count].reshape(shape)
    return repeated.clamp(-1e9, 1e9).to(dtype) if dtype == torch.int32 else repeated.to(dtype)


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.tuples(st.sampled_from(["a.", "b.", ""]), KEYS).map("".join), max_size=7, unique=True))
    return {name: draw(tensors()) for name in names}


@settings(max_examples=CASES, deadline=None)
@given(content=state_dicts(), name=st.sampled_from(list(SCHEMES)), dim=st.sampled_from([0, 1, None, "default"]))
def test_fuzzed_state_dicts_never_break_a_conversion(
    content: dict[str, torch.Tensor], name: str, dim: int | str | None
) -> None:
    source = checkpoint(content)
    json.dumps([summary.to_dict() for summary in inspect(source)])
    with contextlib.suppress(NothingToConvertError):
        fold(source, dim=dim)  # type: ignore[arg-type]
    try:
        applied = apply(source, name, dim=dim)  # type: ignore[arg-type]
    except NothingToConvertError:
        return
    if applied.report.exact:
        names = [entry.fqn for entry in applied.report.converted]
        assert difference(content, fold(applied.checkpoint, only=names).checkpoint.content) is None
