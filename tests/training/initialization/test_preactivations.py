"""What can be scaled by its parts, which positions count, and what the report says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.training.settling import GENERATOR, X, Y, assert_settled, by_hooks, gives, ours, sequential
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.reasons import Why
from wnconvert.training.initialization.initializing import initialize


def test_the_report_has_the_statistics_before():
    plain = sequential()
    model = ours(plain)
    first = gives(plain, X)["0"]
    report = initialize(model, [X])
    torch.testing.assert_close(report.initialized[0].mean, first.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(report.initialized[0].std, first.std(1, unbiased=False), rtol=1e-5, atol=1e-6)
    assert report.initialized[0].biases == ("0.bias",)
    assert str(report).startswith("4 initialized, 0 skipped\n  0.weight: mean ")


@pytest.mark.parametrize(
    ("scheme", "initialized"),
    [
        (wnconvert.WeightNorm(log_g=True), True),
        (wnconvert.WeightNorm(p=1), True),
        ("centered_weight_norm", True),
        ("weight_standardization", True),
        ("scaled_weight_standardization", True),
        (wnconvert.WeightStandardization(affine=False), False),
        ("unit_norm", False),
        ("spectral_norm", False),
        ("sigma_reparam", False),
        ("network_norm", False),
        ("magnitude_preserving", False),
    ],
)
@pytest.mark.parametrize("how", ["module", "graph"])
def test_each_scheme_is_settled_or_says_why_not(scheme, initialized, how):
    model = ours(sequential(), scheme, how=how, **({"dim": None} if scheme == "network_norm" else {}))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if initialized:
        assert all(entry.reached for entry in initialize(model, [X, Y]).initialized)
        assert_settled(wnconvert.fold(model).model, X, Y)
        return
    with pytest.raises(NothingToConvertError, match=r"no weight of '.*' can be initialized: '0.weight', ") as caught:
        initialize(model, [X])
    assert {entry.reason.why for entry in caught.value.report.skipped} == {Why.NO_SCALE}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_one_output_unit_needs_one_number():
    model = ours(nn.Sequential(nn.Flatten(), nn.Linear(60, 1)), "sigma_reparam")
    initialize(model.eval(), [X])
    assert_settled(model, X)


def test_a_kept_dim_that_is_no_output_dim_is_named():
    model = wnconvert.apply(sequential(), dim=0).model
    report = initialize(model, [X])
    (skipped,) = report.skipped
    assert (skipped.fqn, skipped.reason.why) == ("4.weight", Why.NO_SCALE)
    assert "has shape (8, 1, 1), and none for each of its 6 output units; convert it with dim='output'" in str(skipped)
    grouped = wnconvert.apply(nn.Sequential(nn.ConvTranspose1d(4, 4, 2, groups=2), nn.Conv1d(4, 2, 1))).model
    assert "the 2 groups of a transposed" in str(initialize(grouped, [torch.randn(4, 4, 9)]).skipped[0].reason)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv1d(3, 4, 3, stride=2), nn.Linear(4, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.second(self.first(x).relu().transpose(1, 2))


def valid(batch: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.arange(shape[1]) < (batch["lengths"] // 2)[:, None]


@pytest.mark.parametrize("parts", [1, 2])
def test_only_positions_of_the_mask_count(parts):
    lengths = torch.randint(4, 18, (16,), generator=GENERATOR)
    x = torch.where(torch.arange(20) < lengths[:, None, None], X, 1e4)
    batches = [{"x": a, "lengths": b} for a, b in zip(x.chunk(parts), lengths.chunk(parts), strict=True)]
    model = ours(Masked())
    assert all(entry.reached for entry in initialize(model, batches, mask=valid).initialized)
    y = model(x, lengths)[torch.arange(9) < (lengths // 2)[:, None]]
    assert y.mean(0).abs().max() < 1e-5
    assert (y.var(0, unbiased=False) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (lambda batch, shape: torch.ones(shape), "it must be a tensor of booleans"),
        (lambda batch, shape: None, "mask gives None for positions"),
        (lambda batch, shape: torch.ones(3, 3, dtype=torch.bool), r"mask gives shape \(3, 3\), which does not broad"),
        (lambda batch, shape: torch.zeros(shape, dtype=torch.bool), r"sees 0 position\(s\) in all batches together"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask, text):
    with pytest.raises(OptionError, match=text):
        initialize(ours(sequential()), [X], mask=mask)


def test_units_without_variance_are_left_alone_and_named():
    plain = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        plain[0].weight[1].zero_()
        plain[0].bias[1] = 0.3
    model = ours(plain)
    before = model[0].weight_g.detach().clone()
    report = initialize(model, [X])
    assert report.initialized[0].dead == (1,)
    assert "left alone without variance: units 1" in str(report)
    assert model[0].weight_g[1] == before[1]
    assert model[0].bias[1] == torch.tensor(0.3)
    assert torch.isfinite(model(X)).all()


def test_what_is_not_trained_stays():
    model = ours(sequential())
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = initialize(model, [X])
    assert [entry.fqn for entry in report.skipped] == ["0.weight"]
    assert report.skipped[0].reason.why is Why.FROZEN
    assert report.initialized[0].biases == ()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"2.weight_g", "4.weight_g", "4.bias", "8.weight_g", "8.bias"}


class Shifted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + 1, self.bias)


def test_a_weight_that_is_changed_before_its_layer_is_named():
    report = initialize(by_hooks(nn.Sequential(Shifted(20, 4), nn.Linear(4, 2))), [X])
    assert [entry.fqn for entry in report.initialized] == ["1.weight"]
    assert str(report.skipped[0].reason) == "what a layer reads is not what its parts compose"
