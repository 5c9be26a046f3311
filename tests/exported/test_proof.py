"""What differs is not handed over."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wnconvert
from wnconvert.exported import conversion
from wnconvert.exported.proof import prove


class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count.add_(x.sum())
        return self.linear(x)


def program():
    torch.manual_seed(0)
    return torch.export.export(Count(), (torch.ones(2, 3),))


def test_equal_programs_are_said_to_be():
    assert prove(program(), program()) == "run on 1 input, the program gives the same outputs as before, bit for bit"


@pytest.mark.parametrize("key", ["linear.bias", "count"])
def test_another_output_or_another_update_is_refused(key):
    other = program()
    with torch.no_grad():
        value = other.state_dict[key]
        value[0] = torch.nextafter(value[0], torch.tensor(9.0)) if key == "linear.bias" else 1.0
    with pytest.raises(wnconvert.VerificationError, match="gives other outputs than it did"):
        prove(program(), other)


def test_a_program_that_fails_where_it_did_not_is_refused():
    other = program()
    other.state_dict["linear.weight"] = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(wnconvert.VerificationError, match="fails where it did not: RuntimeError"):
        prove(program(), other)


def test_a_program_that_runs_on_nothing_is_not_said_to_be_compared():
    broken = program()
    broken.state_dict["linear.weight"] = nn.Parameter(torch.ones(3, 4))
    assert prove(broken, program()).startswith("the program was not run to be compared with what it was: RuntimeError")
    assert (
        prove(broken, copy.deepcopy(broken), (torch.ones(1, 4),))
        == "run on 1 input, the program gives the same outputs as before, bit for bit"
    )


def test_a_conversion_that_is_wrong_is_not_handed_over(monkeypatch):
    def wrong(held, before):
        lifted = lift(held, before)
        with torch.no_grad():
            next(iter(lifted.state_dict.values())).mul_(2)
        return lifted

    lift = conversion.lift
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    exported = torch.export.export(model, (torch.ones(2, 3),))
    wnconvert.fold(exported)
    monkeypatch.setattr(conversion, "lift", wrong)
    with pytest.raises(wnconvert.VerificationError, match="gives other outputs"):
        wnconvert.fold(exported)
