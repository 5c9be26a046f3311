"""ApplyPass with every scheme: bits, keys, selection, dims, and the life of a model after it."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.covering import pairwise
from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import DTYPES, label, trained, variant_id, variants
from tests.models import MODELS, WEIGHTS, build
from tests.weights.nets import One, X, param
from wnconvert import ApplyPass, FoldPass, UnknownNameError, WeightNorm
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits

ALL = variants()
PRESERVING = [scheme for scheme in ALL if scheme.preserving]
each = pytest.mark.parametrize("scheme", ALL, ids=variant_id)
each_preserving = pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
# tied weights and modules; parameters of the model's own, and a module that is called twice
two_models = pytest.mark.parametrize("name", ["transformer", "functional"])


def applied(name, scheme, dtype=torch.float32, dim=0):
    """Return a traced model with the scheme applied to all weights, its inputs, and the report."""
    model, inputs = build(name, dtype)
    traced = trace(model)
    report = ApplyPass(scheme, dim=dim).call(traced).report
    assert len(report.converted) == len(WEIGHTS[name])
    return traced, inputs, report


def pickled(model):
    """Return the model after saving and loading."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# exactness


@pytest.mark.parametrize(
    ("scheme", "name", "dtype"), pairwise(PRESERVING, ["conv", "transformer", "functional"], DTYPES), ids=label
)
def test_outputs_keep_their_bits(scheme, name, dtype):
    model, inputs = build(name, dtype)
    expected = outputs_of(model, inputs)
    converted, _, report = applied(name, scheme, dtype)
    assert report.exact
    assert_same_outputs(outputs_of(converted, inputs), expected)


@each
@two_models
def test_what_is_lost_is_reported(scheme, name):
    model, inputs = build(name)
    expected = outputs_of(model, inputs)
    converted, _, report = applied(name, scheme)
    same = all(same_bits(a, b) for a, b in zip(outputs_of(converted, inputs), expected, strict=True))
    assert report.exact is same is scheme.preserving
    assert all((entry.max_abs_error > 0) is not scheme.preserving for entry in report.converted)


# keys


@each
def test_parts_stand_in_the_place_of_the_weight(scheme):
    converted, _, report = applied("functional", scheme)
    state = set(scheme.state)
    expected = [f"w_in_{part}" for part in scheme.parts if part not in state]
    assert list(converted._parameters)[: len(expected)] == expected
    assert report.converted[0].keys == (*(f"w_in_{part}" for part in scheme.parts), *scheme.shared)
    keys = set(converted.state_dict())
    assert {key for entry in report.converted for key in entry.keys} <= keys
    assert not keys & set(WEIGHTS["functional"])


@each
def test_the_modes_flag_adds_no_keys(scheme):
    converted, _, report = applied("conv", scheme)
    plain = set(build("conv")[0].state_dict()) - set(WEIGHTS["conv"])
    assert set(converted.state_dict()) == plain | {key for entry in report.converted for key in entry.keys}


@each
def test_trained_parts_are_parameters_and_state_is_not(scheme):
    converted, _, _ = applied("functional", scheme)
    parameters, buffers = dict(converted.named_parameters()), dict(converted.named_buffers())
    for part in scheme.parts:
        assert f"w_in_{part}" in (buffers if part in scheme.state else parameters)
    assert all(name in parameters for name in scheme.shared)


# a model's life


@each
@two_models
def test_a_deepcopy_computes_the_same_and_is_independent(scheme, name):
    converted, inputs, _ = applied(name, scheme)
    expected = outputs_of(converted, inputs)
    copied = copy.deepcopy(converted)
    assert_same_outputs(outputs_of(copied, inputs), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert_same_outputs(outputs_of(converted, inputs), expected)


@each
@two_models
def test_a_pickle_computes_the_same(scheme, name):
    converted, inputs, _ = applied(name, scheme)
    restored = pickled(converted)
    # unpickling a GraphModule, torch makes a transient buffer of the root one of the state dict
    keys = [key for key in restored.state_dict() if key not in converted._non_persistent_buffers_set]
    assert keys == list(converted.state_dict())
    assert_same_outputs(outputs_of(restored, inputs), outputs_of(converted, inputs))


@each
def test_a_state_dict_fits_another_conversion_of_the_model(scheme):
    converted, inputs, _ = applied("conv", scheme)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.mul_(1.5)
    other, _, _ = applied("conv", scheme)
    assert not same_bits(outputs_of(other, inputs)[0], outputs_of(converted, inputs)[0])
    result = other.load_state_dict(converted.state_dict(), strict=True)
    assert not result.missing_keys
    assert_same_outputs(outputs_of(other, inputs), outputs_of(converted, inputs))


@each
@two_models
def test_applying_again_changes_nothing(scheme, name):
    converted, _, _ = applied(name, scheme)
    before = Snapshot(converted)
    for other in (scheme, "weight_norm"):
        result = ApplyPass(other).call(converted)
        assert not result.modified
        assert len(result.report.skipped) == len(WEIGHTS[name])
        assert all(entry.already and "already computed" in entry.reason for entry in result.report.skipped)
    before.assert_same(converted)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["double", "bfloat16"])
def test_a_moved_model_runs_in_its_new_dtype(scheme, dtype):
    converted, inputs, _ = applied("vocoder", scheme)
    reference = outputs_of(converted, inputs)[0]
    converted.to(dtype)
    (output,) = outputs_of(converted, tuple(x.to(dtype) for x in inputs))
    assert output.dtype is dtype
    # five layers of bfloat16, with 8 bits each, on values of order 1
    torch.testing.assert_close(output.float(), reference, rtol=0, atol=1e-5 if dtype is torch.float64 else 0.1)


@each
@two_models
def test_training_mode_forwards_twice_then_backward(scheme, name):
    converted, inputs, report = applied(name, scheme)
    converted.train()
    (converted(*inputs).sum() + converted(*inputs).square().sum()).backward()
    for entry in report.converted:
        for key in entry.keys:
            part = converted.get_parameter(key) if key in dict(converted.named_parameters()) else None
            assert part is None or part.grad is not None
    for part in trained(scheme):
        keys = [key for entry in report.converted for key in entry.keys if key.endswith(part)]
        assert any(converted.get_parameter(key).grad.count_nonzero() > 0 for key in keys)


@each
def test_a_training_step_changes_the_outputs(scheme):
    converted, inputs, _ = applied("functional", scheme)
    before = outputs_of(converted, inputs)
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted.train()
    converted(*inputs).square().sum().backward()
    optimizer.step()
    assert not same_bits(outputs_of(converted.eval(), inputs)[0], before[0])


@each
def test_autocast_runs_forward_and_backward(scheme):
    converted, inputs, _ = applied("conv", scheme)
    with torch.autocast("cpu", torch.bfloat16):
        output = converted.train()(*inputs)
    assert output.dtype is torch.bfloat16
    output.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in converted.parameters())


@each_preserving
def test_autocast_gives_the_bits_of_the_plain_model(scheme):
    model, inputs = build("vocoder")
    with torch.autocast("cpu", torch.bfloat16):
        expected = outputs_of(model, inputs)
        assert_same_outputs(outputs_of(applied("vocoder", scheme)[0], inputs), expected)


@each
def test_evaluation_leaves_the_state_alone_and_training_updates_it(scheme):
    converted, inputs, _ = applied("conv", scheme)
    for model in (converted, pickled(converted), copy.deepcopy(converted)):
        for _, batch_norm in model.named_modules():
            if isinstance(batch_norm, nn.BatchNorm2d):
                batch_norm.momentum = 0.0
        before = {name: tensor.clone() for name, tensor in model.named_buffers() if name.rpartition("_")[2] in "uv"}
        with torch.no_grad():
            model.get_parameter(f"stem.weight_{scheme.direction}").add_(torch.randn(8, 3, 3, 3))
        outputs_of(model.eval(), inputs)
        assert all(same_bits(model.get_buffer(name), tensor) for name, tensor in before.items())
        outputs_of(model.train(), inputs)
        changed = {name for name, tensor in before.items() if not same_bits(model.get_buffer(name), tensor)}
        assert ({"stem.weight_u", "stem.weight_v"} <= changed) is scheme.dynamic


# free-standing


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wnconvert":
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
try:
    import wnconvert
except ImportError:
    pass
else:
    raise SystemExit("wnconvert can be imported")
import copy, torch
for path in sys.argv[1:]:
    model, inputs, expected = torch.load(path, weights_only=False)
    assert torch.equal(model(*inputs), expected), path
    copy.deepcopy(model).train()(*inputs).sum().backward()
assert not any(name.partition(".")[0] == "wnconvert" for name in sys.modules)
print("ran", len(sys.argv) - 1)
"""


def test_converted_models_run_where_wnconvert_cannot_be_imported(tmp_path):
    paths = []
    for name in ("conv", "transformer"):
        for scheme in ALL:
            converted, inputs, _ = applied(name, scheme)
            # the test's own modules cannot be imported there: a pickled graph module brings its code along
            paths.append(tmp_path / f"{name}-{len(paths)}.pt")
            torch.save((converted, inputs, outputs_of(converted, inputs)[0]), paths[-1])
    result = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.stdout.strip() == f"ran {len(paths)}", result.stderr


def test_the_blocker_blocks(tmp_path):
    path = tmp_path / "x.pt"
    torch.save((WeightNorm(), (), None), path)
    result = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED, str(path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode != 0
    assert "No module named 'wnconvert'" in result.stderr or "blocked: wnconvert" in result.stderr


# the rest


def test_an_unknown_scheme_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown scheme 'weight_nrom'; did you mean 'weight_norm'"):
        ApplyPass("weight_nrom")


def test_a_scheme_with_options_is_used_as_given():
    model = trace(build("functional")[0])
    ApplyPass(WeightNorm(p=1.0), dim=None).call(model)
    torch.testing.assert_close(model.w_in_g, build("functional")[0].w_in.abs().sum())


def test_the_report_says_what_was_done():
    report = ApplyPass("weight_norm").call(trace(build("conv")[0])).report
    entry = report.converted[1]
    assert (entry.fqn, entry.op, entry.scheme) == ("conv1.weight", "conv2d", "weight_norm")
    assert (entry.keys, entry.dims) == (("conv1.weight_g", "conv1.weight_v"), (1, 2, 3))
    assert (entry.how, entry.max_abs_error) == ("graph", 0.0)


def test_a_failing_split_leaves_the_model_alone():
    class Failing(WeightNorm):
        def split(self, weight, spec):
            raise ZeroDivisionError

    model = trace(build("conv")[0])
    before = Snapshot(model)
    with pytest.raises(ZeroDivisionError):
        ApplyPass(Failing()).call(model)
    before.assert_same(model)


def test_meta_tensors_are_converted():
    model = trace(build("conv")[0].to("meta"))
    report = ApplyPass().call(model).report
    assert len(report.converted) == 4
    assert model.stem.weight_v.is_meta


@each
def test_folding_is_the_inverse_where_nothing_is_lost(scheme):
    for name in MODELS:
        model, inputs = build(name)
        traced = trace(model)
        before, plain = Snapshot(traced), outputs_of(traced, inputs)
        ApplyPass(scheme, dim=0).call(traced)
        expected = outputs_of(traced, inputs)
        FoldPass().call(traced)
        assert_same_outputs(outputs_of(traced, inputs), expected)
        if scheme.preserving:
            before.assert_same(traced)
            assert_same_outputs(expected, plain)
        else:
            assert Snapshot(traced).listing == before.listing
            assert Snapshot(traced).contents == before.contents


def test_a_frozen_model_gets_frozen_parts():
    model = trace(One(lambda self, x: F.linear(x, self.w), w=param(5, 3, requires_grad=False)))
    ApplyPass("network_norm").call(model)
    assert {name: tensor.requires_grad for name, tensor in model.named_parameters()} == {
        "w_network_v": False,
        "network_g": False,
    }
    assert model(X).shape == (4, 5)
