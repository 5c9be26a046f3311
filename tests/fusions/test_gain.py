from __future__ import annotations

import torch
import torch.nn.functional as F

from wnconvert.fusions.gain import Gain


def test_it_is_the_affine_end_of_a_layer_norm():
    torch.manual_seed(0)
    weight, bias, x = torch.randn(4), torch.randn(4), torch.randn(3, 4, dtype=torch.float64)
    affine = Gain().affine({"weight": weight, "bias": bias}, 0.0)
    normalized = F.layer_norm(x, (4,))
    expected = F.layer_norm(x, (4,), weight.double(), bias.double())
    torch.testing.assert_close(normalized * affine.scale + affine.shift, expected, rtol=1e-13, atol=1e-13)


def test_what_is_not_there_leaves_the_value_alone():
    assert Gain().affine({}, 0.0).scale is None
    assert Gain().affine({"weight": torch.ones(3)}, 0.0).shift is None
