"""What cannot be split into parts says why; what can says nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

import wnconvert
from wnconvert import checkpoint
from wnconvert.checkpoint import Checkpoint
from wnconvert.fitness import (
    Overlaps,
    reason_against,
    reason_against_change,
    reason_against_layer,
    reason_against_part,
    reason_against_values,
)
from wnconvert.passes.apply import ApplyPass
from wnconvert.reasons import Why
from wnconvert.report import Report
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm

#: applies a scheme to a model, as it is or as a file
Side: TypeAlias = Callable[[nn.Module, Scheme], Report]


class Special(nn.Parameter):
    """A parameter of a class of its own."""


def _hooked() -> nn.Parameter:
    parameter = nn.Parameter(torch.rand(2, 2))
    parameter.register_hook(lambda grad: grad)
    return parameter


def _post_hooked() -> nn.Parameter:
    parameter = nn.Parameter(torch.rand(2, 2))
    parameter.register_post_accumulate_grad_hook(lambda tensor: None)
    return parameter


def whole(*args: Tensor) -> nn.Parameter:
    return nn.Parameter(*args, requires_grad=False)


UNFIT = {
    "a buffer": (lambda: torch.rand(2, 2), "it is a buffer, which is not trained"),
    "lazy": (UninitializedParameter, "it is not initialized yet; run the model once"),
    "a class of its own": (lambda: Special(torch.rand(2, 2)), "it is a Special, not a plain parameter"),
    "integers": (lambda: whole(torch.ones(2, 2, dtype=torch.int8)), "its dtype int8 is none that a scheme"),
    "complex": (lambda: whole(torch.ones(2, 2, dtype=torch.complex64)), "its dtype complex64 is none that a scheme"),
    "eight bits": (lambda: whole(torch.ones(2, 2).to(torch.float8_e4m3fn)), "its dtype float8_e4m3fn is none"),
    "empty": (lambda: nn.Parameter(torch.rand(0, 3)), r"it is empty, of shape \(0, 3\)"),
    "sparse": (lambda: nn.Parameter(torch.eye(3).to_sparse()), "its layout torch.sparse_coo is not strided"),
    "gaps": (lambda: nn.Parameter(torch.rand(4, 4)[:, ::2]), r"its memory has gaps or overlaps \(strides \(4, 2\)\)"),
    "overlaps": (lambda: nn.Parameter(torch.rand(4).expand(3, 4)), r"gaps or overlaps \(strides \(0, 1\)\)"),
    "not a number": (lambda: nn.Parameter(torch.full((2, 2), float("nan"))), "it holds non-finite values"),
    "infinite": (lambda: nn.Parameter(torch.tensor([1.0, float("inf")])), "it holds non-finite values"),
    "a hook": (_hooked, "it has gradient hooks, which would be lost"),
    "a hook after accumulation": (_post_hooked, "it has gradient hooks, which would be lost"),
}
FIT = {
    "plain": lambda: nn.Parameter(torch.rand(2, 3)),
    "frozen": lambda: nn.Parameter(torch.rand(2, 3), requires_grad=False),
    "half": lambda: nn.Parameter(torch.rand(2, 3).half()),
    "brain": lambda: nn.Parameter(torch.rand(2, 3).bfloat16()),
    "double": lambda: nn.Parameter(torch.rand(2, 3).double()),
    "transposed": lambda: nn.Parameter(torch.rand(2, 3).t()),
    "channels last": lambda: nn.Parameter(torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)),
    "on no device": lambda: nn.Parameter(torch.rand(2, 3, device="meta")),
    "a section of other memory": lambda: nn.Parameter(torch.rand(4, 3)[1:3]),
    "so large that its sum is infinite": lambda: nn.Parameter(torch.full((2, 2), 3e38)),
    "one dim": lambda: nn.Parameter(torch.rand(3)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_unfit_says_why(name: str) -> None:
    make, reason = UNFIT[name]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(reason_against(make()))


@pytest.mark.parametrize("name", FIT)
def test_what_is_fit_says_nothing(name: str) -> None:
    assert reason_against(FIT[name]()) is None


def test_a_hook_that_was_removed_is_none() -> None:
    parameter = nn.Parameter(torch.rand(2, 2))
    parameter.register_hook(lambda grad: grad).remove()
    assert reason_against(parameter) is None


def test_what_compiled_code_holds_is_unfit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.script(nn.Linear(2, 2))
    tensor = nn.Parameter(torch.rand(2, 2))
    assert reason_against(tensor, [("a", nn.Linear(2, 2))]) is None
    holders = [("a", nn.Linear(2, 2)), ("b", compiled)]
    assert reason_against(tensor, holders) == "the TorchScript module 'b' holds it, whose code is fixed"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Embedding(3, 2), None),
        (nn.Linear(2, 2), None),
        (nn.Embedding(3, 2, max_norm=1.0), "max_norm rewrites the weight in every forward"),
        (nn.EmbeddingBag(3, 2, max_norm=1.0), "max_norm rewrites the weight in every forward"),
        (nn.Embedding(3, 2, sparse=True), "its gradient is sparse, which no normalization can pass on"),
    ],
)
def test_layers_that_stand_against_it(module: nn.Module, reason: str | None) -> None:
    assert reason_against_layer(module) == reason


def test_what_is_no_parameter_is_judged_by_its_values() -> None:
    assert reason_against_values(torch.rand(2, 2)) is None
    assert reason_against_values(torch.rand(4, 4)[:, ::2]) == reason_against(UNFIT["gaps"][0]())


def test_a_part_may_have_any_values_and_strides() -> None:
    assert reason_against_part("v", torch.full((4, 4), float("nan"))[:, ::2]) is None
    assert reason_against_part("v", torch.rand(0)) == "its part 'v' has no data"
    unlike = "its part 'v' has a dtype or layout that no scheme can compute with"
    assert reason_against_part("v", torch.ones(2).int()) == reason_against_part("v", torch.eye(2).to_sparse()) == unlike
    assert reason_against_part("v", torch.rand(2, device="meta")) == "its part 'v' has no data"
    assert reason_against_part("v", torch.rand(2, device="meta"), is_read=False) is None


def test_a_weight_that_changes_is_fit_for_schemes_that_say_so() -> None:
    weight, exact, inexact = torch.rand(2, 2).half(), SCHEMES.get("weight_norm")(), SCHEMES.get("unit_norm")()
    assert reason_against_change(weight, exact, 0.0) is None
    assert reason_against_change(weight, inexact, 0.5) is None
    unlike = "its norm has no exact representation in float16"
    assert reason_against_change(weight, exact, 5e-324) == unlike
    assert reason_against_change(weight, inexact, float("inf")) == unlike


# shared memory


def named(**tensors: Tensor) -> list[tuple[str, Tensor]]:
    return list(tensors.items())


def overlaps(**tensors: Tensor) -> dict[str, str]:
    found = Overlaps(named(**tensors))
    reasons = {name: found.reason_against(tensor) for name, tensor in tensors.items()}
    return {name: str(reason).split("'")[1] for name, reason in reasons.items() if reason}


def test_tensors_with_memory_of_their_own_do_not_overlap() -> None:
    assert overlaps(a=torch.rand(3), b=torch.rand(3)) == {}


def test_a_view_overlaps_with_what_it_shows() -> None:
    a = nn.Parameter(torch.rand(4, 4))
    assert overlaps(a=a, b=a.detach()[1:], c=torch.rand(2)) == {"a": "b", "b": "a"}


def test_pieces_side_by_side_do_not_overlap() -> None:
    flat = torch.rand(12)
    assert overlaps(a=flat[:4].view(2, 2), b=flat[4:8], c=flat[8:]) == {}
    assert overlaps(a=flat[:5], b=flat[4:8], c=flat[8:]) == {"a": "b", "b": "a"}


def test_a_long_piece_overlaps_with_each_that_begins_in_it() -> None:
    flat = torch.rand(12)
    assert overlaps(a=flat, b=flat[1:2], c=flat[8:]) == {"a": "b", "b": "a", "c": "a"}


def test_one_tensor_under_two_names_is_tied_and_does_not_overlap() -> None:
    a = torch.rand(3)
    assert Overlaps([("a", a), ("b", a)]).reason_against(a) is None


def test_what_makes_two_tensors_one_can_be_told() -> None:
    a = torch.rand(3)
    assert overlaps(a=a, b=a.view(3)) == {"a": "b", "b": "a"}
    assert Overlaps(named(a=a, b=a.view(3)), Tensor.data_ptr).reason_against(a) is None


def test_what_has_no_memory_to_compare_does_not_overlap() -> None:
    a, sparse = torch.rand(4, device="meta"), torch.eye(3).to_sparse()
    assert overlaps(a=a, b=a[1:], c=sparse, d=torch.rand(0), e=UninitializedParameter()) == {}


# the same on all sides


def _graph(model: nn.Module, scheme: Scheme) -> Report:
    return ApplyPass(scheme, dim=0).call(wnconvert.trace(model)).report


def _module(model: nn.Module, scheme: Scheme) -> Report:
    return wnconvert.apply(model, scheme, dim=0).report


def _module_itself(model: nn.Module, scheme: Scheme) -> Report:
    return wnconvert.apply(model, scheme, dim=0, inplace=True).report


def _file(model: nn.Module, scheme: Scheme) -> Report:
    return checkpoint.apply(Checkpoint(model.state_dict(), "torch_zip"), scheme, dim=0).report


each_side = pytest.mark.parametrize("side", [_graph, _module, _module_itself, _file])


def _model(first: Tensor, second: Tensor | None = None) -> nn.Module:
    """Two layers with these weights, and one that can be converted."""
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    model[0].weight = nn.Parameter(first)
    if second is not None:
        model[1].weight = nn.Parameter(second)
    return model


def reasons(report: Report) -> dict[str, Why]:
    assert "2.weight" in {entry.fqn for entry in report.converted}
    return {entry.fqn: entry.reason.why for entry in report.skipped}


@each_side
@pytest.mark.parametrize("scheme", ["weight_norm", "unit_norm"])
@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.rand(8, 8)[:4, :4], Why.STRIDES),
        (torch.rand(1, 4).expand(4, 4), Why.STRIDES),
        (torch.tensor([[float("nan")] * 4] * 4), Why.NON_FINITE),
        (torch.rand(0, 4), Why.NO_DATA),
    ],
    ids=["gaps", "expanded", "not finite", "empty"],
)
def test_no_side_splits_what_is_unfit(weight: Tensor, why: Why, scheme: str, side: Side) -> None:
    assert reasons(side(_model(weight), SCHEMES.get(scheme)())) == {"0.weight": why}


@each_side
@pytest.mark.parametrize(
    "view",
    [lambda flat: flat[:16].view(4, 4).t(), lambda flat: flat[8:].view(4, 4)],
    ids=["transposed", "partial"],
)
def test_no_side_unties_what_shares_memory(view: Callable[[Tensor], Tensor], side: Side) -> None:
    flat = torch.rand(24)
    both = {"0.weight": Why.SHARED_MEMORY, "1.weight": Why.SHARED_MEMORY}
    assert reasons(side(_model(flat[:16].view(4, 4), view(flat)), WeightNorm())) == both


@each_side
def test_no_side_unties_a_weight_from_a_buffer(side: Side) -> None:
    model = _model(torch.rand(4, 4))
    model.register_buffer("row", model[0].weight.detach()[1])
    assert reasons(side(model, WeightNorm())) == {"0.weight": Why.SHARED_MEMORY}


@each_side
def test_what_lies_side_by_side_is_fit(side: Side) -> None:
    flat = torch.rand(32)
    assert reasons(side(_model(flat[:16].view(4, 4), flat[16:].view(4, 4)), WeightNorm())) == {}


class _Forgetful(WeightNorm):
    """Loses the sign of zeros, and says that it preserves nothing."""

    preserving = False

    def compose(self, parts: Any, spec: WeightSpec) -> Any:
        return super().compose(parts, spec) + 0.0


@each_side
def test_no_side_calls_a_change_of_the_sign_of_a_zero_exact(side: Side) -> None:
    weight = torch.rand(4, 4)
    weight[1, 1] = -0.0
    report = side(_model(weight), _Forgetful())
    errors = {entry.fqn: entry.max_abs_error for entry in report.converted}
    assert not report.exact
    assert 0 < errors.pop("0.weight") < 1e-300
    assert set(errors.values()) == {0.0}
