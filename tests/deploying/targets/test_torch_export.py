from __future__ import annotations

import torch
from torch import nn

from tests.deploying.nets import Noisy
from wnconvert.deploying.exporting import export


def test_a_program_draws_the_random_numbers_of_the_model(tmp_path):
    done = export(Noisy(), tmp_path / "net.pt2", (torch.randn(1, 4, 9),))
    assert done.compared.same_bits


def test_what_a_model_updates_is_updated_in_the_program(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return self.lin(x) + self.count

    model = Counting()
    done = export(model, tmp_path / "net.pt2", (torch.randn(3, 2),))
    assert done.compared.sizes == 1
    assert float(model.count) == 0.0
    assert float(torch.export.load(tmp_path / "net.pt2").state_dict["count"]) == 0.0
