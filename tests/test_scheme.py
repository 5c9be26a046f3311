"""What every scheme must do; the schemes come from the registry, so that a new one is tested without an edit."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract import ALL, CASES, each, each_case, each_class, each_dtype, each_two
from tests.covering import pairwise
from tests.helpers import (
    DTYPES,
    Float32List,
    assert_close_in,
    assert_same_bits,
    bits_equal,
    compose_all,
    label,
    nodes_of,
    perturbed,
    sample,
    split_all,
    traced,
    trained,
    with_gradients,
    with_zeros,
)
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec, identify

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
        assert tensor.untyped_storage().data_ptr() not in {x.untyped_storage().data_ptr() for x in parts[0].values()}
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


@pytest.mark.parametrize(("scheme", "case"), pairwise(ALL, CASES), ids=label)
def test_scaled_parts_compose_to_the_scaled_weight(scheme, case):
    shape, kept = case
    weight = torch.randn(shape).double()
    spec = WeightSpec.of(weight, kept)
    parts = scheme.split(weight, spec)
    parts |= scheme.split_shared([parts], [spec]) | scheme.gather([parts], [spec])
    numbers = next((parts[part] for part in (*scheme.proportional, "s") if part in parts), torch.zeros(()).double())
    factor = torch.rand_like(numbers) + 0.5
    scaled = scheme.scaled(parts, factor)
    assert scheme.direction not in scaled
    if scaled:
        torch.testing.assert_close(
            scheme.compose(parts | scaled, spec), scheme.compose(parts, spec) * factor, rtol=1e-12, atol=1e-12
        )
    assert bool(scaled) is any(part in parts for part in (*scheme.proportional, "s"))
