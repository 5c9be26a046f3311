"""Optimizers without state for converted models: torch's own optimizers load them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.parametrizations import weight_norm as parametrized

from tests.checkpoint.conftest import checkpoint
from wnconvert import Selection
from wnconvert.checkpoint import Conversion, apply, apply_like, fold, migrate
from wnconvert.errors import CheckpointError

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.25, weight_decay=0.5),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.25),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.25, momentum=0.5),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.25),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.25),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.25),
}


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3), nn.Conv1d(3, 5, 4), nn.Linear(6, 7))


def normed(norm: Callable[[nn.Module], nn.Module] = weight_norm) -> nn.Sequential:
    net = plain()
    for index in (0, 2):
        net[index] = norm(net[index])
    return net


def trained(net: nn.Module, groups: Any, kind: str = "adamw") -> dict[str, Any]:
    """Return the state dict of an optimizer after a step."""
    optimizer = OPTIMIZERS[kind](groups)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def converted(net: nn.Module, state: dict[str, Any], convert: Callable[..., Conversion], **how: Any) -> dict[str, Any]:
    """Return the optimizer of a converted checkpoint."""
    source = checkpoint({"model": net.state_dict(), "optimizer": state, "epoch": 3})
    before = copy.deepcopy(state)
    conversion = convert(source, **how, optimizer="reset")
    (stale,) = conversion.report.optimizers
    assert (stale.path, stale.became) == ("optimizer", "reset")
    assert state.keys() == before.keys()
    assert [group["params"] for group in state["param_groups"]] == [group["params"] for group in before["param_groups"]]
    return conversion.checkpoint.content["optimizer"]


def check_loads(made: dict[str, Any], net: nn.Module, groups: Any, kind: str = "adamw") -> None:
    """Load it as a program that resumes does, and make a step."""
    optimizer = OPTIMIZERS[kind](groups)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.load_state_dict(made)
    assert all(group["lr"] == 0.25 for group in optimizer.param_groups)
    assert made["state"] == {}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_after_fold_every_optimizer_loads_it(kind: str) -> None:
    net, after = normed(), plain()
    made = converted(net, trained(net, net.parameters(), kind), fold)
    check_loads(made, after, after.parameters(), kind)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_after_apply_every_optimizer_loads_it(kind: str) -> None:
    net, after = plain(), normed()
    made = converted(net, trained(net, net.parameters(), kind), apply, selection=Selection(include=("0", "2")))
    check_loads(made, after, after.parameters(), kind)


def test_after_apply_like_it_loads() -> None:
    net, after = plain(), normed()
    state = trained(net, net.parameters())
    made = converted(net, state, apply_like, reference=checkpoint(normed().state_dict()))
    check_loads(made, after, after.parameters())


def test_after_migrate_it_loads_where_parameters_change_their_order() -> None:
    class Outer(nn.Conv1d):
        def __init__(self) -> None:
            super().__init__(2, 3, 4)
            self.inner = nn.Linear(2, 2)

    net, after = weight_norm(Outer()), parametrized(Outer())
    made = converted(net, trained(net, net.parameters()), migrate, to="parametrization")
    check_loads(made, after, after.parameters())


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm, parametrized])
def test_buffers_are_no_parameters(norm: Callable[[nn.Module], nn.Module]) -> None:
    net, after = normed(norm), plain()
    check_loads(converted(net, trained(net, net.parameters()), fold), after, after.parameters())


@pytest.mark.parametrize(
    ("prefix", "names"), [("l.module.weight_", ("bar", "u", "v")), ("l.", ("weight", "u0", "sv0"))]
)
def test_layouts_know_which_of_their_vectors_are_parameters(prefix: str, names: tuple[str, ...]) -> None:
    shapes = ((3, 4), (3,), (4,)) if "bar" in names else ((3, 4), (1, 3), (1,))
    vectors = {f"{prefix}{name}": torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    bias = {f"{prefix.removesuffix('weight_')}bias": nn.Parameter(torch.zeros(3))}
    # the wrapper registers its vectors as parameters without gradients, BigGAN's layers as buffers
    own = [nn.Parameter(tensor) for tensor in vectors.values()] if "bar" in names else [nn.Parameter(torch.ones(3, 4))]
    net = nn.ParameterList([*own, *bias.values()])
    source = checkpoint({"model": {**vectors, **bias}, "optimizer": trained(net, net.parameters())})
    made = fold(source, optimizer="reset").checkpoint.content["optimizer"]
    after = nn.Linear(4, 3)
    check_loads(made, after, after.parameters())


def test_what_all_weights_share_is_one_parameter() -> None:
    net = plain()
    state = trained(net, net.parameters())
    source = checkpoint({"model": net.state_dict(), "optimizer": state})
    split = apply(source, "network_norm", optimizer="reset").checkpoint
    assert len(split.content["optimizer"]["param_groups"][0]["params"]) == 9
    folded = fold(split, optimizer="reset").checkpoint
    assert len(folded.content["optimizer"]["param_groups"][0]["params"]) == 8


def by_rank(net: nn.Module) -> list[dict[str, Any]]:
    """Two groups, as training without weight decay for biases has them."""
    wide = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in net.parameters() if parameter.ndim < 2]
    return [{"params": wide, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]


def by_layer(net: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(layer.parameters())} for layer in net.children()]


@pytest.mark.parametrize("groups", [by_rank, by_layer])
def test_several_groups_are_each_as_long_as_they_must_be(groups: Callable[[nn.Module], Any]) -> None:
    net, after = normed(), plain()
    check_loads(converted(net, trained(net, groups(net)), fold), after, groups(after))
    made = converted(after, trained(after, groups(after)), apply, selection=Selection(include=("0", "2")))
    check_loads(made, net, groups(net))


def twins(norm: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    return nn.Sequential(norm(nn.Conv1d(2, 3, 4)), norm(nn.Conv1d(2, 3, 4)))


def test_weights_alike_in_several_groups_are_told_by_their_numbers() -> None:
    net, after = twins(weight_norm), twins(lambda module: module)
    check_loads(converted(net, trained(net, by_layer(net)), fold), after, by_layer(after))


def test_names_of_parameters_tell_what_shapes_leave_open() -> None:
    net, after = twins(weight_norm), nn.Sequential(nn.Conv1d(2, 3, 4), weight_norm(nn.Conv1d(2, 3, 4)))

    def named(net: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(layer.named_parameters(prefix=name))} for name, layer in net.named_children()]

    state = trained(net, named(net))
    made = converted(net, state, fold, selection=Selection(include=("0",)))
    check_loads(made, after, named(after))
    names = [group["param_names"] for group in made["param_groups"]]
    assert [set(group) for group in names] == [{name for name, _ in group["params"]} for group in named(after)]


def test_parameters_may_be_told_by_names_alone() -> None:
    net = normed()
    state = {"state": {}, "param_groups": [{"lr": 0.25, "params": [name for name, _ in net.named_parameters()]}]}
    made = converted(net, state, fold)
    assert sorted(made["param_groups"][0]["params"]) == sorted(name for name, _ in plain().named_parameters())


def frozen(net: nn.Module) -> Any:
    return net[0].parameters()


def torn(net: nn.Module) -> list[dict[str, Any]]:
    """Magnitudes by themselves: nobody knows where a folded weight belongs."""
    own = [parameter for name, parameter in net.named_parameters() if name.endswith("_g")]
    return [{"params": own}, {"params": [each for each in net.parameters() if all(each is not g for g in own)]}]


@pytest.mark.parametrize(
    ("make", "groups", "kind"),
    [
        (lambda: twins(weight_norm), frozen, "adamw"),  # one of two that are alike is in it
        (normed, torn, "adamw"),
        (normed, by_layer, "sgd"),  # no state, so no shapes
    ],
)
def test_what_cannot_be_known_is_refused(make: Callable[[], nn.Module], groups: Any, kind: str) -> None:
    net = make()
    source = checkpoint({"model": net.state_dict(), "optimizer": trained(net, groups(net), kind)})
    with pytest.raises(CheckpointError, match=r"'optimizer' cannot be reset.*--optimizer drop"):
        fold(source, optimizer="reset")


def test_a_copy_of_the_weights_leaves_no_doubt() -> None:
    net, after = normed(), plain()
    content = {"model": net.state_dict(), "ema": normed().state_dict(), "optimizer": trained(net, net.parameters())}
    made = fold(checkpoint(content), optimizer="reset").checkpoint.content["optimizer"]
    check_loads(made, after, after.parameters())


def test_one_optimizer_for_several_models_is_reset_for_all_of_them() -> None:
    one, two = normed(), weight_norm(nn.Linear(8, 9))
    state = trained(nn.ModuleList([one, two]), [*one.parameters(), *two.parameters()])
    content = {"mpd": one.state_dict(), "msd": two.state_dict(), "optim_d": state}
    made = fold(checkpoint(content), optimizer="reset").checkpoint.content["optim_d"]
    after = nn.ModuleList([plain(), nn.Linear(8, 9)])
    check_loads(made, after, after.parameters())
