"""What every scheme must do; the schemes come from the registry, so that a new one is tested without an edit."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from tests.covering import pairwise
from tests.helpers import (
    DTYPES,
    Float32List,
    assert_close_in,
    assert_same_bits,
    bits_equal,
    compose_all,
    evaluate_formula,
    fold,
    label,
    nodes_of,
    perturbed,
    sample,
    split_all,
    traced,
    trained,
    variant_id,
    variants,
    with_gradients,
    with_zeros,
)
from wnconvert.errors import OptionError
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec, identify
from wnconvert.schemes.weight_norm import WeightNorm

ALL = variants()
PRESERVING = [scheme for scheme in ALL if scheme.preserving]
CHANGING = [scheme for scheme in ALL if not scheme.preserving]
CLASSES = [SCHEMES.get(name) for name in SCHEMES]

#: shapes with kept dims: no dim to five dims; the whole tensor, one dim, several dims, nothing reduced, sizes of 1
CASES = [
    ((), ()),
    ((5,), (0,)),
    ((5,), ()),
    ((1,), (0,)),
    ((4, 6), (0,)),
    ((4, 6), (1,)),
    ((4, 6), ()),
    ((4, 6), (0, 1)),
    ((1, 5), (0,)),
    ((4, 3, 5), (2,)),
    ((4, 3, 5), (0, 2)),
    ((4, 3, 3, 3), (0,)),
    ((4, 3, 3, 3), (1,)),
    ((6, 1, 1, 1), (0,)),
    ((2, 3, 2, 3, 2), (1,)),
    ((2, 3, 2, 3, 2), (0, 1)),
]

each = pytest.mark.parametrize("scheme", ALL, ids=variant_id)
each_preserving = pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
each_changing = pytest.mark.parametrize("scheme", CHANGING, ids=variant_id)
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
each_case = pytest.mark.parametrize(("shape", "kept"), CASES)
#: any two of the three, for what does not depend on rounding
each_two = pytest.mark.parametrize(("scheme", "case", "dtype"), pairwise(ALL, CASES, DTYPES), ids=label)


# exactness


@each_preserving
@each_case
@each_dtype
def test_compose_inverts_split_to_the_bit(scheme, shape, kept, dtype):
    weight = sample(*shape, dtype=dtype)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_case
@each_dtype
def test_a_zero_channel_survives_to_the_bit(scheme, shape, kept, dtype):
    weight = with_zeros(sample(*shape, dtype=dtype), kept)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_dtype
def test_a_constant_channel_survives_to_the_bit(scheme, dtype):
    weight = sample(4, 6, dtype=dtype)
    weight[0], weight[1], weight[2] = 0.1, -3.7, 1.0
    parts, specs = split_all(scheme, [weight])
    parts, leaves = with_gradients(parts, trained(scheme))
    composed = compose_all(scheme, parts, specs)[0]
    assert_same_bits(composed, weight)
    composed.backward(sample(4, 6, dtype=dtype, seed=1))
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@each_preserving
@each_dtype
def test_a_channel_too_small_for_its_squares_survives_to_the_bit(scheme, dtype):
    # weight decay leaves dead channels like this
    weight = sample(4, 6)
    weight[0] *= 2.0 ** {torch.float64: -600, torch.float16: -20}.get(dtype, -80)
    weight = weight.to(dtype)
    assert not weight[0].square().sum()
    assert_same_bits(fold(scheme, weight), weight)
    assert_same_bits(fold(scheme, weight[:1]), weight[:1])


@each_preserving
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_weight_survives_to_the_bit(scheme, data):
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    shape = data.draw(st.lists(st.integers(1, 5), max_size=4), "shape")
    kept = tuple(sorted(data.draw(st.sets(st.sampled_from(range(len(shape))) if shape else st.nothing()), "kept")))
    seed = data.draw(st.integers(0, 2**20), "seed")
    weight = sample(*shape, dtype=torch.float64, seed=seed)
    # channels of very different size, down to where their squares underflow, as weight decay leaves dead ones
    low = max(round(math.log2(torch.finfo(dtype).tiny)) + 12, -120)
    exponents = data.draw(st.lists(st.integers(low, 6), min_size=1, max_size=4), "exponents")
    for i, channel in enumerate(weight if shape else [weight]):
        channel.mul_(2.0 ** exponents[i % len(exponents)])
    weight = weight.to(dtype)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_dtype
def test_a_network_survives_to_the_bit(scheme, dtype):
    weights = [sample(4, 3, dtype=dtype), torch.zeros(3, 3, dtype=dtype), sample(5, 2, 3, dtype=dtype, seed=1)]
    for actual, expected in zip(compose_all(scheme, *split_all(scheme, weights)), weights, strict=True):
        assert_same_bits(actual, expected)


@each_preserving
def test_a_network_of_several_dtypes_survives_to_the_bit(scheme):
    weights = [sample(4, 3, dtype=dtype, seed=seed) for seed, dtype in enumerate(DTYPES)]
    weights += [sample(dtype=dtype, seed=seed) for seed, dtype in enumerate(DTYPES)]
    specs = [WeightSpec.of(weight, (0,) if weight.dim() else ()) for weight in weights]
    own = [scheme.split(weight, spec) for weight, spec in zip(weights, specs, strict=True)]
    shared = scheme.split_shared(own, specs)
    for actual, expected in zip(
        compose_all(scheme, [{**parts, **shared} for parts in own], specs), weights, strict=True
    ):
        assert_same_bits(actual, expected)


@each_changing
@each_dtype
def test_what_is_not_preserving_changes_the_weight(scheme, dtype):
    weight = sample(4, 6, dtype=dtype)
    assert (fold(scheme, weight) - weight).abs().max() > 0.01


@each_changing
@each_case
def test_folding_again_changes_no_more(scheme, shape, kept):
    weight = sample(*shape)
    # where eps is added to a statistic, each fold changes the scale by the part of eps in it: settled after three
    for _ in range(3):
        weight = fold(scheme, weight, kept)
    torch.testing.assert_close(fold(scheme, weight, kept), weight, rtol=1e-10, atol=1e-10)


@each_case
@each
def test_zero_weights_stay_finite(scheme, shape, kept):
    for dtype in DTYPES:
        for weight in (with_zeros(sample(*shape, dtype=dtype), kept), torch.zeros(shape, dtype=dtype)):
            parts, specs = split_all(scheme, [weight], kept)
            parts, leaves = with_gradients(parts, trained(scheme))
            composed = compose_all(scheme, parts, specs)[0]
            assert composed.isfinite().all()
            composed.backward(sample(*shape, dtype=dtype, seed=1))
            assert all(leaf.grad.isfinite().all() for leaf in leaves)


@each
@each_dtype
def test_a_zero_weight_can_learn_again(scheme, dtype):
    parts, specs = split_all(scheme, [torch.zeros(4, 6, dtype=dtype)])
    parts, leaves = with_gradients(parts, trained(scheme))
    compose_all(scheme, parts, specs)[0].backward(sample(4, 6, dtype=dtype, seed=1))
    assert any(leaf.grad.any() for leaf in leaves)


# proxies


@each
@each_case
def test_tensors_and_proxies_give_the_same_bits(scheme, shape, kept):
    parts, specs = split_all(scheme, [sample(*shape), sample(*shape, seed=1)], kept)
    parts = perturbed(parts, scheme)
    graph_module = traced(lambda proxies: compose_all(scheme, proxies, specs), parts)
    copy = pickle.loads(pickle.dumps(graph_module))
    for expected, emitted, unpickled in zip(compose_all(scheme, parts, specs), graph_module(), copy(), strict=True):
        assert_same_bits(emitted, expected)
        assert_same_bits(unpickled, expected)


@each
@each_dtype
def test_a_graph_computes_nothing_but_torch_functions(scheme, dtype):
    parts, specs = split_all(scheme, [sample(4, 3, 3, 3, dtype=dtype)])
    for node in nodes_of(traced(lambda proxies: compose_all(scheme, proxies, specs), parts)):
        assert node.op in ("call_function", "call_method")
        if node.op == "call_function":
            assert (node.target.__module__ or "torch").split(".")[0] in ("torch", "_operator", "math"), node.target


@pytest.mark.parametrize(
    # compiling takes its time, so each scheme has one of the cases
    ("scheme", "case"),
    list(zip(ALL, itertools.cycle([((4, 6), (0,)), ((4, 3, 5), (0, 2)), ((4, 3, 5), ())]))),
    ids=label,
)
def test_compile_sees_all_of_it(scheme, case):
    shape, kept = case
    parts, specs = split_all(scheme, [sample(*shape)], kept)
    parts = perturbed(parts, scheme)

    def run(own: dict[str, Tensor]) -> Any:
        return scheme.update(own, specs[0]), compose_all(scheme, [own], specs)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(parts[0]), run(parts[0]), rtol=0, atol=0)


# gradients


@each
@each_case
def test_values_and_gradients_are_those_of_the_printed_formula(scheme, shape, kept):
    parts, specs = split_all(scheme, [sample(*shape), sample(*shape, seed=1)], kept)
    parts, leaves = with_gradients(perturbed(parts, scheme), trained(scheme))
    cotangents = [sample(*shape, seed=2), sample(*shape, seed=3)]
    composed = compose_all(scheme, parts, specs)
    every = {part: torch.cat([own[part].flatten() for own in parts]) for part in parts[0]}
    expected = [evaluate_formula(scheme, own, spec, every) for own, spec in zip(parts, specs, strict=True)]
    if scheme.name == "centered_weight_norm" and specs[0].fan_in == 1:
        # a single element less its mean is 0, where the printed norm has no derivative; compose has 0 there
        expected = [own["shift"] if "shift" in own else 0.0 * own["c"] for own in parts]
    torch.testing.assert_close(composed, expected)
    torch.testing.assert_close(
        torch.autograd.grad(composed, leaves, cotangents, materialize_grads=True),
        torch.autograd.grad(expected, leaves, cotangents, materialize_grads=True),
    )


SMALL = [((3, 4), (0,)), ((3, 4), ()), ((2, 3, 2), (1,)), ((2, 2, 3), (0, 2))]


def composing(scheme: Scheme, shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[Callable[..., Any], list[Tensor]]:
    """Return a function from the trained parts of two weights to the weights, and those parts."""
    parts, specs = split_all(scheme, [sample(*shape), sample(*shape, seed=1)], kept)
    parts, leaves = with_gradients(perturbed(parts, scheme), trained(scheme))

    def compose(*values: Tensor) -> tuple[Tensor, ...]:
        of = dict(zip(map(id, leaves), values, strict=True))
        given = [{part: of.get(id(tensor), tensor) for part, tensor in own.items()} for own in parts]
        return tuple(compose_all(scheme, given, specs))

    return compose, leaves


@each
@pytest.mark.parametrize(("shape", "kept"), SMALL)
def test_gradcheck(scheme, shape, kept):
    assert torch.autograd.gradcheck(*composing(scheme, shape, kept))


@each
@pytest.mark.parametrize(("shape", "kept"), SMALL)
def test_gradgradcheck(scheme, shape, kept):
    if not scheme.has_second_derivatives(WeightSpec(shape, kept, torch.float64)):
        assert scheme == WeightNorm()  # torch's kernel is wrong, see test_weight_norm.py
        scheme = WeightNorm(twice_differentiable=True)
    assert torch.autograd.gradgradcheck(*composing(scheme, shape, kept))


@each
@each_dtype
def test_gradients_reach_every_trained_part(scheme, dtype):
    parts, specs = split_all(scheme, [sample(4, 6, dtype=dtype)])
    parts, leaves = with_gradients(parts, trained(scheme))
    compose_all(scheme, parts, specs)[0].backward(sample(4, 6, dtype=dtype, seed=1))
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


# the tensors that split makes


@each
@each_case
def test_split_makes_the_parts_it_names(scheme, shape, kept):
    weight = sample(*shape)
    spec = WeightSpec.of(weight, kept)
    parts = scheme.split(weight, spec)
    assert tuple(parts) == scheme.parts
    assert parts[scheme.direction].shape == weight.shape
    if scheme.magnitude in parts:
        assert parts[scheme.magnitude].shape == spec.kept_shape
    assert tuple(scheme.split_shared([parts], [spec])) == scheme.shared


@each_two
def test_split_leaves_the_weight_alone(scheme, case, dtype):
    shape, kept = case
    weight = sample(*shape, dtype=dtype)
    before, state = weight.clone(), torch.get_rng_state()
    parts, _ = split_all(scheme, [weight], kept)
    assert_same_bits(weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    storages = [tensor.untyped_storage().data_ptr() for tensor in (weight, *parts[0].values())]
    assert len(set(storages)) == len(storages)
    assert all(tensor.dtype == dtype for tensor in parts[0].values())


@each
def test_split_is_deterministic(scheme):
    weight = sample(4, 3, 5)
    first, _ = split_all(scheme, [weight])
    torch.manual_seed(123)
    again, _ = split_all(scheme, [weight])
    assert all(bits_equal(first[0][part], again[0][part]) for part in first[0])


@each
@each_case
def test_meta_tensors_get_the_same_shapes(scheme, shape, kept):
    weight = sample(*shape, dtype=torch.float16)
    real, specs = split_all(scheme, [weight], kept)
    meta, meta_specs = split_all(scheme, [weight.to("meta")], kept)
    composed = compose_all(scheme, meta, meta_specs)[0]
    assert meta_specs == specs
    assert {part: (x.shape, x.dtype, x.device.type) for part, x in meta[0].items()} == {
        part: (x.shape, x.dtype, "meta") for part, x in real[0].items()
    }
    assert (composed.shape, composed.dtype, composed.device.type) == (weight.shape, weight.dtype, "meta")
    assert {part: x.shape for part, x in scheme.update(meta[0], specs[0]).items()} == {
        part: x.shape for part, x in scheme.update(real[0], specs[0]).items()
    }


LAYOUTS = {
    "channels_last": lambda dtype: sample(4, 3, 2, 5, dtype=dtype).contiguous(memory_format=torch.channels_last),
    "channels_last_3d": lambda dtype: sample(4, 3, 2, 5, 2, dtype=dtype).contiguous(
        memory_format=torch.channels_last_3d
    ),
    "transposed": lambda dtype: sample(6, 4, dtype=dtype).t(),
    "strided": lambda dtype: sample(4, 12, dtype=dtype)[:, ::2],
    "expanded": lambda dtype: sample(4, 1, dtype=dtype).expand(4, 6),
}


@pytest.mark.parametrize(("scheme", "layout", "dtype"), pairwise(ALL, LAYOUTS, DTYPES), ids=label)
def test_memory_formats(scheme, layout, dtype):
    weight = LAYOUTS[layout](dtype)
    for kept in ((0,), (1,), ()):
        composed = fold(scheme, weight, kept)
        if scheme.preserving:
            assert_same_bits(composed, weight)
            assert composed.stride() == weight.clone().stride()
        else:
            plain = fold(scheme, weight.contiguous(), kept)
            # a sum over other strides may be added up in another order
            assert_close_in(dtype, composed, plain, roundings=8)


def in_memory_order(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same tensor, with the given dims from the slowest to the fastest in memory."""
    inverse = [order.index(dim) for dim in range(weight.dim())]
    return weight.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


#: weights whose strides do not follow from the order of their elements in memory
AMBIGUOUS = {
    "depthwise": lambda dtype: sample(6, 1, 3, 3, dtype=dtype).to(memory_format=torch.channels_last),
    "1x1": lambda dtype: sample(6, 4, 1, 1, dtype=dtype).to(memory_format=torch.channels_last),
    "one channel": lambda dtype: sample(1, 1, 3, 3, dtype=dtype).to(memory_format=torch.channels_last),
    "depthwise 3d": lambda dtype: sample(6, 1, 2, 3, 3, dtype=dtype).to(memory_format=torch.channels_last_3d),
    "a column, transposed": lambda dtype: sample(1, 5, dtype=dtype).t(),
    "a row of a matrix": lambda dtype: torch.empty_strided((1, 5), (77, 1), dtype=dtype).copy_(sample(1, 5)),
}


@pytest.mark.parametrize(("scheme", "layout", "dtype"), pairwise(ALL, AMBIGUOUS, DTYPES), ids=label)
def test_ambiguous_strides_are_kept(scheme, layout, dtype):
    weight = AMBIGUOUS[layout](dtype)
    assert weight.is_contiguous()
    assert weight.stride() != torch.empty(weight.shape).stride()
    meta = torch.empty_strided(weight.shape, weight.stride(), dtype=dtype, device="meta")
    for kept in ((0,), (1,), (), tuple(range(weight.dim()))):
        parts, specs = split_all(scheme, [weight], kept)
        composed = compose_all(scheme, parts, specs)[0]
        assert composed.stride() == parts[0][scheme.direction].stride() == weight.stride()
        assert fold(scheme, meta, kept).stride() == weight.stride()
        if scheme.preserving:
            assert_same_bits(composed, weight)
            zeros = with_zeros(weight, kept)
            assert_same_bits(fold(scheme, zeros, kept), zeros)
            assert fold(scheme, zeros, kept).stride() == weight.stride()


@each
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 3, 2), (4, 3, 1), (1, 4, 3), (4, 3, 2, 2), (4, 3, 1, 2)])
def test_any_order_in_memory_is_kept(scheme, shape):
    for order in itertools.permutations(range(len(shape))):
        weight = in_memory_order(sample(*shape), order)
        for kept in ((0,), (1,), (), tuple(range(len(shape)))):
            assert fold(scheme, weight, kept).stride() == weight.stride()


@each
def test_a_weight_in_the_default_memory_format_costs_no_node_for_its_strides(scheme):
    for shape in ((4, 6), (4, 3, 3, 3), (6, 1, 3, 3), (6, 4, 1, 1), (1, 1), (1, 5), (5, 1)):
        spec = WeightSpec.of(sample(*shape))
        assert not spec.ambiguous
        parts, specs = split_all(scheme, [sample(*shape)])
        graph_module = traced(lambda proxies, specs=specs: compose_all(scheme, proxies, specs), parts)
        assert torch.slice_scatter not in {node.target for node in nodes_of(graph_module)}


@each
def test_values_survive_a_change_of_the_memory_format(scheme):
    for shape in ((6, 4, 3, 3), (6, 1, 3, 3), (6, 4, 1, 1), (6, 4, 3, 1)):
        for before, after in itertools.permutations((torch.contiguous_format, torch.channels_last)):
            parts, specs = split_all(scheme, [sample(*shape).to(memory_format=before)])
            moved = [{part: x.to(memory_format=after) if x.dim() == 4 else x for part, x in parts[0].items()}]
            torch.testing.assert_close(compose_all(scheme, moved, specs)[0], compose_all(scheme, parts, specs)[0])


# a model's life after the conversion


@pytest.mark.parametrize(("scheme", "dtype", "new"), pairwise(ALL, DTYPES, DTYPES), ids=label)
def test_parts_may_move_to_another_dtype(scheme, dtype, new):
    weights = [sample(4, 3, 3, 3, dtype=dtype), with_zeros(sample(4, 3, dtype=dtype, seed=1), (0,))]
    weights += [sample(4, dtype=dtype, seed=2)]
    parts, specs = split_all(scheme, weights)
    moved = [{part: tensor.to(new) for part, tensor in own.items()} for own in parts]
    for weight, before, after in zip(
        weights, compose_all(scheme, parts, specs), compose_all(scheme, moved, specs), strict=True
    ):
        assert (after.dtype, after.shape) == (new, weight.shape)
        coarser = max(dtype, new, key=lambda x: torch.finfo(x).eps)
        # each part is rounded once and each operation rounds: about a dozen in the longest formula
        assert_close_in(coarser, after, before, roundings=12)


@each
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda dtype: str(dtype)[6:])
def test_autocast_changes_no_bit(scheme, dtype):
    parts, specs = split_all(scheme, [sample(4, 3, 3, 3, dtype=dtype), sample(6, 5, dtype=dtype, seed=1)])
    parts = perturbed(parts, scheme)
    expected = compose_all(scheme, parts, specs)
    updates = [scheme.update(own, spec) for own, spec in zip(parts, specs, strict=True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for actual, plain in zip(compose_all(scheme, parts, specs), expected, strict=True):
            assert_same_bits(actual, plain)
        for own, spec, update in zip(parts, specs, updates, strict=True):
            for part, actual in scheme.update(own, spec).items():
                assert_same_bits(actual, update[part])


@each
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda dtype: str(dtype)[6:])
def test_the_float32_list_of_autocast_on_cuda_changes_no_bit(scheme, dtype):
    parts, specs = split_all(scheme, [sample(4, 3, 3, 3, dtype=dtype), sample(6, 5, dtype=dtype, seed=1)])
    for current in (parts, perturbed(parts, scheme)):
        expected = compose_all(scheme, current, specs)
        updates = [scheme.update(own, spec) for own, spec in zip(current, specs, strict=True)]
        with Float32List():
            composed = compose_all(scheme, current, specs)
            updated = [scheme.update(own, spec) for own, spec in zip(current, specs, strict=True)]
        for actual, plain in zip(composed, expected, strict=True):
            assert_same_bits(actual, plain)
        for actual, plain in zip(updated, updates, strict=True):
            assert all(bits_equal(actual[part], plain[part]) for part in plain)


@each_two
def test_updates_are_new_values_of_the_state(scheme, case, dtype):
    shape, kept = case
    parts, specs = split_all(scheme, [sample(*shape, dtype=dtype)], kept)
    parts, _ = with_gradients(perturbed(parts, scheme), trained(scheme))
    new = scheme.update(parts[0], specs[0])
    assert set(new) == (scheme.state if scheme.dynamic else set())
    for part, tensor in new.items():
        assert (tensor.shape, tensor.dtype) == (parts[0][part].shape, dtype)
        assert not tensor.requires_grad
    emitted = traced(lambda proxies: scheme.update(proxies[0], specs[0]), parts)()
    assert set(emitted) == set(new)
    for part, tensor in new.items():
        assert_same_bits(emitted[part], tensor)


@each
@each_case
def test_stored_parts_show_the_kept_dims(scheme, shape, kept):
    parts = scheme.split(sample(*shape), WeightSpec.of(sample(*shape), kept))
    assert scheme.infer_kept(parts, kept) == kept


# what the class says of itself


@each_class
def test_the_scheme_is_named_like_its_file(cls):
    assert cls.__module__.rpartition(".")[2] == cls.name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", cls.name)


def test_every_part_set_is_of_one_scheme():
    for scheme in ALL:
        assert identify(frozenset(scheme.parts)) == scheme
        assert identify(frozenset({*scheme.parts, "stray"})) is None
    assert len({frozenset(scheme.parts) for scheme in ALL}) == len(ALL)


@each
def test_part_names(scheme):
    assert scheme.direction in scheme.parts
    assert scheme.state <= set(scheme.parts)
    assert scheme.dynamic == bool(scheme.state)
    assert not set(scheme.shared) & set(scheme.parts)
    assert all(part.isidentifier() for part in (*scheme.parts, *scheme.shared))


@each_class
def test_options_are_documented_and_readable(cls):
    attributes = inspect.getdoc(cls).partition("Attributes:")[2]
    documented = re.findall(r"^    (\w+): \S", attributes, flags=re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(cls)]
    assert cls.from_options({field.name: str(field.default) for field in dataclasses.fields(cls)}) == cls()


@each_class
def test_a_number_must_make_sense(cls):
    for field in dataclasses.fields(cls):
        if type(field.default) is float:
            with pytest.raises(OptionError, match=f"{cls.name}.{field.name}.*nan"):
                cls.from_options({field.name: "nan"})
        if type(field.default) is int:
            with pytest.raises(OptionError, match=f"{cls.name}.{field.name}.*-1"):
                cls.from_options({field.name: "-1"})


@each_class
def test_formula_and_reference(cls):
    assert re.match(r"w = \S", cls.formula)
    assert cls.reference.startswith("https://")
    assert cls.reference in inspect.getmodule(cls).__doc__
    assert cls.default_dim in (None, "output") or isinstance(cls.default_dim, int)
