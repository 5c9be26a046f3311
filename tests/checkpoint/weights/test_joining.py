"""Many small weights split at once have the bits that each has alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint import apply, bits_equal
from wnconvert.checkpoint.weights import applying
from wnconvert.checkpoint.weights.joining import is_joinable, split_joined
from wnconvert.scheme import SCHEMES, WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm

SHAPES = [(1, 1), (8, 8), (1, 31), (3, 17), (16, 1), (2, 3, 5), (5, 1, 1), (1, 1, 7), (2, 2, 3, 3), (1, 128)]


def several(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return weights of one shape, among them such as have channels without a usable norm."""
    generator = torch.Generator().manual_seed(sum(shape))
    weights = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(40)]
    scales = {3: 0.0, 4: -0.0, 5: 1e-30, 6: 1e30, 7: 1e-44, 8: torch.finfo(dtype).tiny, 9: torch.finfo(dtype).max / 8}
    for index, scale in scales.items():
        weights[index][-1] *= scale  # one channel, so that others of the weight stay usable
    weights[10][:] = 0.0
    weights[11][:] = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least number
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_joined_parts_have_the_bits_strides_and_own_memory_of_those_split_alone(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weights, scheme = several(shape, dtype), WeightNorm()
    spec = WeightSpec.of(weights[0])
    assert is_joinable(weights[0], scheme, spec)
    joined = dict(split_joined(weights, scheme, spec))
    exact = [bits_equal(scheme.compose(scheme.split(weight, spec), spec), weight) for weight in weights]
    assert sum(exact) > 35
    assert sorted(joined) == [index for index, is_exact in enumerate(exact) if is_exact]
    storages = set()
    for index, parts in joined.items():
        alone = scheme.split(weights[index], spec)
        assert list(parts) == list(scheme.parts)
        for part, tensor in parts.items():
            assert bits_equal(tensor, alone[part])
            assert tensor.stride() == alone[part].stride()
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            storages.add(tensor.untyped_storage().data_ptr())
        assert bits_equal(scheme.compose(parts, spec), weights[index])
    assert len(storages) == len(joined) * len(scheme.parts)


def test_only_plain_small_weights_whose_rows_stand_alone_are_joined() -> None:
    weight = torch.ones(4, 4)
    assert is_joinable(weight, WeightNorm(), WeightSpec.of(weight))
    for scheme in (WeightNorm(p=1), WeightNorm(log_g=True), WeightNorm(written_out=True), SCHEMES.get("unit_norm")()):
        assert not is_joinable(weight, scheme, WeightSpec.of(weight))
    others = (
        weight.half(),
        torch.ones(64, 64),
        torch.ones(4, 4).t()[:, :3],
        weight[:0],
        torch.ones(4, 4, device="meta"),
    )
    for other in others:
        assert not is_joinable(other, WeightNorm(), WeightSpec.of(other))
    assert not is_joinable(weight, WeightNorm(), WeightSpec.of(weight, (1,)))


def test_apply_calls_the_scheme_a_few_times_for_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = several((1, 1), torch.float32)
    content = {f"{index}.weight": weight for index, weight in enumerate(weights)}
    done = apply(checkpoint(content))
    assert len(done.report.converted) == len(weights)
    calls: list[tuple[int, ...]] = []
    split = WeightNorm.split

    def counted(self: WeightNorm, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        calls.append(tuple(weight.shape))
        return split(self, weight, spec)

    monkeypatch.setattr(WeightNorm, "split", counted)
    again = apply(checkpoint(content))
    assert len(calls) == 2  # of those that have a norm, and of those that have none
    monkeypatch.setattr(applying, "is_joinable", lambda *_: False)
    alone = apply(checkpoint(content))
    assert len(calls) == 2 + len(weights)
    assert list(again.checkpoint.content) == list(alone.checkpoint.content)
    for key, tensor in again.checkpoint.content.items():
        assert bits_equal(tensor, alone.checkpoint.content[key])


def test_a_weight_that_does_not_come_back_leaves_the_others_to_be_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = WeightNorm.compose

    def wrong(self: WeightNorm, parts: dict[str, Tensor], spec: WeightSpec) -> Tensor:
        return compose(self, parts, spec) + (1 if spec.shape[0] > 2 else 0)

    monkeypatch.setattr(WeightNorm, "compose", wrong)
    done = apply(checkpoint({"a.weight": torch.ones(2, 2), "b.weight": torch.full((2, 2), 2.0)}))
    assert [entry.fqn for entry in done.report.converted] == ["a.weight", "b.weight"]
