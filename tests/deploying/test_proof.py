"""The proof must notice what is wrong, and must not take rounding for it."""

from __future__ import annotations

import pytest
import torch

from tests.deploying.nets import Net, Noisy
from wnconvert.deploying.inputs import arguments, tensors_in
from wnconvert.deploying.proof import Reference, prove
from wnconvert.errors import VerificationError

#: what torch says of its own hook
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute self.up.weight was assigned")


def setting(kind=Net, scale=1.0, dtype=torch.float32):
    model = kind(dtype).eval()
    with torch.no_grad():
        model.lin.weight *= scale
    program = torch.export.export(
        model, (torch.randn(1, 4, 9, dtype=dtype),), dynamic_shapes={"x": {2: torch.export.Dim.DYNAMIC}}
    )

    def run(values):
        args, kwargs = arguments(program, values)
        return tensors_in(model(*args, **kwargs))

    return Reference(model, program), run, program


def test_the_same_bits_at_several_sizes():
    reference, run, program = setting()
    seen = []
    compared = prove(reference, lambda values: seen.append(values[0].shape[2]) or run(values), program, seeded=True)
    assert compared.sizes == len(set(seen)) == 3
    assert compared.same_bits
    assert compared.max_abs == 0.0


def test_rounding_is_told_and_allowed():
    reference, run, program = setting()
    compared = prove(reference, lambda values: [each * (1 + 2**-22) for each in run(values)], program, seeded=True)
    assert not compared.same_bits
    assert 0 < compared.max_abs < 1e-5
    assert compared.error is None


def test_what_is_not_close_is_measured_against_float64():
    reference, run, program = setting(scale=1e4)  # where rounding is more than an absolute tolerance is

    def noisy(values):
        return [each + 2**-20 * each.abs().max() for each in run(values)]

    compared = prove(reference, noisy, program, seeded=True)
    assert compared.error is not None
    assert compared.error > compared.model_error


@pytest.mark.parametrize(
    "tamper",
    [
        lambda outputs: [each * 1.001 for each in outputs],
        lambda outputs: [torch.full_like(each, torch.nan) for each in outputs],
        lambda outputs: outputs[:1],
        lambda outputs: [each.double() for each in outputs],
        lambda outputs: [each[:, :-1] for each in outputs],
        lambda outputs: 1 / 0,
    ],
)
def test_what_is_wrong_is_refused(tamper):
    reference, run, program = setting()
    with pytest.raises(VerificationError, match="nothing was kept"):
        prove(reference, lambda values: tamper(run(values)), program, seeded=True)


def test_a_size_at_which_only_the_artifact_is_wrong_counts():
    reference, run, program = setting()
    with pytest.raises(VerificationError):
        prove(reference, lambda v: [x + (v[0].shape[2] == 12) for x in run(v)], program, seeded=True)


def test_random_numbers_are_compared_by_seed_or_not_at_all():
    reference, run, program = setting(Noisy)
    assert prove(reference, run, program, seeded=True).same_bits
    compared = prove(reference, run, program, seeded=False)
    assert compared.sizes == 0
    assert "random" in compared.reason


def test_a_size_that_the_program_guards_against_says_nothing():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 5), torch.nn.BatchNorm1d(2), torch.nn.Conv1d(2, 2, 1)).eval()
    shapes = {"input": {2: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (torch.randn(1, 1, 9),), dynamic_shapes=shapes)
    sizes = []

    def run(values):
        sizes.append(values[0].shape[2])
        return [program.module()(*values)]

    compared = prove(Reference(model, program), run, program, seeded=True)
    assert 5 in sizes  # which torch.export guards against, though the model takes it
    assert compared.sizes == len(sizes) - 1 == 2
