"""Whatever the keys and shapes are, layouts are told or refused, and never fail."""

from __future__ import annotations

import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from tests.checkpoint.conftest import CASES
from wnconvert.checkpoint import Checkpoint, unfold, verify_unfold
from wnconvert.checkpoint.conversions.migration import migrate
from wnconvert.checkpoint.inspecting.normalized import normalized_weights
from wnconvert.checkpoint.layout import LAYOUTS, direction, find_groups, preset, read_preset
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.errors import NothingToConvertError

PRESETS = ("timm", "nfnet", "mmcv-conv-ws", "dora", "bit-npz")
MODULES = ("", "a.", "a.module.", "stem.conv1.", "base_model.model.a.", "standardized_conv2d/")
ENDS = (
    *("weight", "weight_g", "weight_v", "weight_u", "weight_orig", "weight_bar", "weight_s", "weight_gamma"),
    *("weight_beta", "gain", "u0", "sv0", "u1", "bias", "bias_g", "bias_v", "kernel", "lora_A.weight"),
    *("lora_B.weight", "lora_magnitude_vector", "parametrizations.weight.original"),
    *(f"parametrizations.weight.{rest}" for rest in ("original0", "original1", "original2", "0._u", "0._v", "1._u")),
    *(f"parametrizations.weight.{rest}" for rest in ("1._v", "2._u", "0.base", "00._u", "x")),
)
KEYS = st.builds(str.__add__, st.sampled_from(MODULES), st.sampled_from(ENDS))
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.int64])


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """State dicts that look much like real ones; in most, the shapes of a module have something in common."""
    common = draw(SHAPES)
    tensors = {}
    for key in draw(st.lists(KEYS, max_size=8, unique=True)):
        kept = tuple(size if draw(st.booleans()) else 1 for size in common)
        shape = draw(st.one_of(st.just(common), st.just(kept), st.just(common[:1]), st.just(common[1:]), SHAPES))
        values = draw(st.sampled_from([0.0, 1.0, -2.5, float("nan"), float("inf")]))
        tensors[key] = torch.full(shape, 1.0).mul(values).nan_to_num(nan=0.0).to(draw(DTYPES))
    return tensors


@settings(deadline=None, max_examples=CASES)
@given(state_dicts(), st.sampled_from(["default", 0, 1, None, -1, 7]), st.sampled_from([None, *PRESETS]))
def test_no_state_dict_makes_a_layout_fail(tensors: dict[str, Tensor], dim: object, name: str | None) -> None:
    presets = [preset(name)] if name else []
    for group in find_groups(tensors, dim=dim, presets=presets):
        assert group.problem or group.scheme
        assert all(key in tensors for key in group.keys.values())
        if group.problem is None:
            layout = next((each for each in presets if each.name == group.layout), LAYOUTS.get(group.layout)())
            parts = {part: tensors[key] for part, key in group.keys.items()}
            lead = parts[direction(group, layout)]
            for precision in ("runtime", "reference"):
                weight = by_layout(group, layout).weight(parts, precision)
                assert (weight.shape, weight.dtype) == (lead.shape, lead.dtype)
    normalized_weights({key: tuple(tensor.shape) for key, tensor in tensors.items()}, {})


@settings(deadline=None, max_examples=CASES)
@given(state_dicts(), st.sampled_from(["hook", "parametrization"]))
def test_no_state_dict_loses_an_entry_by_migration(tensors: dict[str, Tensor], to: str) -> None:
    try:
        migrated = migrate(Checkpoint(tensors, "torch_zip"), to).checkpoint.content
    except NothingToConvertError:
        return
    again = {id(tensor) for tensor in migrated.values()}
    untouched = {key for key in tensors if key in migrated}
    assert all(id(tensors[key]) in again for key in untouched)
    assert len(migrated) == len(tensors)


WRITTEN = tuple(name for name in LAYOUTS if LAYOUTS.get(name).spells)


@settings(deadline=None, max_examples=CASES)
@given(
    state_dicts(),
    st.sampled_from([*WRITTEN, "timm:only=.*", "mmcv-conv-ws:only=.*", "nfnet:gamma=0.5"]),
    st.sampled_from(["default", 0, 1, None, 7, "output"]),
)
def test_no_state_dict_makes_unfolding_fail(tensors: dict[str, Tensor], name: str, dim: object) -> None:
    layout = read_preset(name)
    source = Checkpoint(tensors, "torch_zip")
    said = dim if layout.api else "default"
    for scheme in layout.spells:
        try:
            unfolded = unfold(source, layout, scheme=scheme, dim=said)
        except NothingToConvertError:
            continue
        verify_unfold(source, unfolded, unfolded.checkpoint, layout, said)
