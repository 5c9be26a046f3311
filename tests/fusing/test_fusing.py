"""What moves into which layer, and what stays, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.fusing.checking import fused, into, reasons, stirred

HOWS = ("module", "graph")


class Calls(nn.Module):
    """A model of named parts with a forward of its own."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda bias: nn.Conv1d(4, 6, 3, padding=1, bias=bias), nn.BatchNorm1d(6), (2, 4, 7)),
        (lambda bias: nn.Conv2d(4, 6, 3, groups=2, padding="same", bias=bias), nn.BatchNorm2d(6), (2, 4, 7, 7)),
        (
            lambda bias: nn.Conv3d(4, 6, 3, padding_mode="circular", padding=1, bias=bias),
            nn.BatchNorm3d(6),
            (2, 4, *[5] * 3),
        ),
        (lambda bias: nn.ConvTranspose1d(4, 6, 3, stride=2, bias=bias), nn.BatchNorm1d(6), (2, 4, 7)),
        (lambda bias: nn.ConvTranspose2d(8, 8, 3, groups=2, bias=bias), nn.BatchNorm2d(8), (2, 8, 7, 7)),
        (lambda bias: nn.ConvTranspose2d(8, 8, 3, bias=bias), nn.BatchNorm2d(8), (2, 8, 7, 7)),
        (lambda bias: nn.ConvTranspose3d(4, 6, 3, bias=bias), nn.SyncBatchNorm(6), (2, 4, 5, 5, 5)),
        (lambda bias: nn.Conv2d(4, 4, 3, groups=4, bias=bias), nn.BatchNorm2d(4, affine=False), (2, 4, 7, 7)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_batch_norm_behind_a_convolution(layer, norm: nn.Module, shape: tuple[int, ...], bias: bool, how: str):
    model = stirred(nn.Sequential(layer(bias), norm, nn.ReLU()))
    made, report = fused(model, torch.randn(shape, dtype=torch.float64), how=how)
    assert into(report) == {"1": ("0.weight",)}
    assert list(made.state_dict()) == ["0.weight", "0.bias"]
    if how == "module":
        assert type(made) is nn.Sequential
        assert type(made[1]) is nn.Identity


def test_a_batch_norm_behind_a_linear_layer_wants_to_know_which_dim_has_the_channels():
    model = stirred(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    with pytest.raises(wnconvert.NothingToConvertError, match="which dim of its input holds the 6 channels"):
        wnconvert.fuse(model)
    _, report = fused(model, torch.randn(3, 5, dtype=torch.float64), given=True)
    assert into(report) == {"1": ("0.weight",)}
    # of three dims, a batch norm has its channels in the second, and the layer in the third
    with pytest.raises(wnconvert.NothingToConvertError, match="it has 6 channels in dim -2"):
        wnconvert.fuse(model, example_inputs=(torch.randn(2, 6, 5, dtype=torch.float64),))


@pytest.mark.parametrize("how", HOWS)
def test_a_batch_norm_before_a_layer(how: str):
    model = stirred(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()))
    _made, report = fused(model, torch.randn(2, 4, 7, 7, dtype=torch.float64), how=how)
    assert into(report) == {"0": ("1.weight",)}
    padded = stirred(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    with pytest.raises(wnconvert.NothingToConvertError, match=r"shift the zeros around the input of '1\.weight'"):
        wnconvert.fuse(padded, how=how)
    reflecting = stirred(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")))
    assert into(fused(reflecting, torch.randn(2, 4, 7, 7, dtype=torch.float64), how=how)[1]) == {"0": ("1.weight",)}
    transposed = stirred(nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)))
    with pytest.raises(wnconvert.NothingToConvertError, match="shift the zeros"):
        wnconvert.fuse(transposed, how=how)


@pytest.mark.parametrize("how", HOWS)
def test_a_convolution_that_is_called_twice_takes_in_neither_of_two_batch_norms(how: str):
    """`torch.fx.experimental.optimization.fuse` and `fuse_fx` give a wrong result here, and say nothing."""
    model = Calls(
        lambda self, x: self.b(self.conv(self.a(self.conv(x)).relu())),
        conv=nn.Conv2d(4, 4, 3, padding=1),
        a=nn.BatchNorm2d(4),
        b=nn.BatchNorm2d(4),
    )
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'conv\.weight' is read 2 times"):
        wnconvert.fuse(stirred(model), how=how)


def test_a_batch_norm_that_is_called_twice_moves_into_two_convolutions():
    model = stirred(
        Calls(
            lambda self, x: self.norm(self.one(x)) + self.norm(self.two(x)),
            one=nn.Conv2d(4, 4, 1),
            two=nn.Conv2d(4, 4, 1),
            norm=nn.BatchNorm2d(4),
        )
    )
    made, report = fused(model, torch.randn(2, 4, 5, 5, dtype=torch.float64), how="graph")
    assert [entry.into for entry in report.fused] == [("one.weight",), ("two.weight",)]
    assert not any(key.startswith("norm") for key in made.state_dict())


@pytest.mark.parametrize("how", HOWS)
def test_a_value_that_is_read_elsewhere_stays(how: str):
    model = Calls(lambda self, x: (y := self.conv(x)) + self.norm(y), conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4))
    with pytest.raises(wnconvert.NothingToConvertError, match="it is read by 'add' too"):
        wnconvert.fuse(stirred(model), how=how)
    model = Calls(lambda self, x: (y := self.norm(x)) + self.lin(y), lin=nn.Linear(4, 4), norm=nn.LayerNorm(4))
    with pytest.raises(wnconvert.NothingToConvertError, match="it is read by 'add' too"):
        wnconvert.fuse(stirred(model), how=how)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)],
    ids=["in training", "without statistics"],
)
def test_statistics_of_the_batch_are_no_constants(norm: nn.Module):
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), norm))
    if norm.track_running_stats:
        norm.train()
    with pytest.raises(wnconvert.NothingToConvertError, match="it normalizes by the statistics of its batch"):
        wnconvert.fuse(model)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.LayerNorm(6, bias=False)])
def test_gains_move_into_every_layer_that_reads_them(norm: nn.Module, how: str):
    model = stirred(
        Calls(
            lambda self, x: (y := self.norm(x)) is not None and (self.q(y), self.k(y), self.v(self.drop(y))),
            norm=norm,
            q=nn.Linear(6, 4),
            k=nn.Linear(6, 4, bias=False),
            v=nn.Linear(6, 2),
            drop=nn.Dropout(0.5),
        )
    )
    made, report = fused(model, torch.randn(2, 3, 6, dtype=torch.float64), how=how)
    assert into(report) == {"norm": ("q.weight", "k.weight", "v.weight")}
    assert not any(key.startswith("norm") for key in made.state_dict())
    assert isinstance(made.norm, type(norm))


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (lambda self, x: self.lin(x) * self.gamma, "gamma"),
        (lambda self, x: self.gamma * self.lin(x), "gamma"),
        (lambda self, x: self.lin(x).mul(1 + self.gamma), "gamma"),
        (lambda self, x: self.lin(x) / self.gamma, "gamma"),
        (lambda self, x: self.lin(x) - self.gamma, "gamma"),
        (lambda self, x: self.lin(x) * 0.25, "mul"),
        (lambda self, x: self.lin(x * 0.25), "mul"),
        (lambda self, x: self.lin(x + self.gamma), "gamma"),
        (lambda self, x: self.lin(x).mul_(self.gamma), "gamma"),
        (lambda self, x: self.lin(x) * (self.gamma * 2.0).abs(), "gamma"),
    ],
)
def test_constants_beside_a_layer(gain: Callable[..., Tensor], expected: str):
    model = stirred(Calls(gain, lin=nn.Linear(6, 6), gamma=nn.Parameter(torch.rand(6))))
    made, report = fused(model, torch.randn(2, 6, dtype=torch.float64), how="graph", given=True)
    assert into(report) == {expected: ("lin.weight",)}
    assert ("gamma" in made.state_dict()) == (expected == "mul")


def test_a_chain_moves_at_once_and_is_rounded_once():
    """A batch norm that is written out, as torchvision's frozen one, is a product and a sum."""

    def forward(self: Any, x: Tensor) -> Tensor:
        scale = self.w * (self.var + 1e-5).rsqrt()
        shift = self.b - self.mean * scale
        return self.conv(x) * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    parts = {name: nn.Parameter(torch.rand(6)) for name in ("w", "b", "mean", "var")}
    model = stirred(Calls(forward, conv=nn.Conv2d(4, 6, 3, bias=False), **parts))
    made, report = fused(model, torch.randn(2, 4, 5, 5, dtype=torch.float64), how="graph")
    assert [entry.into for entry in report.fused] == [("conv.weight",), ("conv.weight",)]
    assert list(made.state_dict()) == ["conv.weight", "conv.bias"]


def test_functions_are_fused_in_graphs_alone():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4, 3))
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            return F.batch_norm(
                F.conv1d(x, self.weight), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )

    model = stirred(Functional())
    made, report = fused(model, torch.randn(2, 4, 7, dtype=torch.float64), how="graph")
    assert into(report) == {"norm": ("weight",)}
    assert list(made.state_dict()) == ["weight", "bias"]
    with pytest.raises(wnconvert.NothingToConvertError, match=r"fuse a graph of it \(how='graph'\)"):
        wnconvert.fuse(model)


class Tied(nn.Module):
    """A language model whose head has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.norm = nn.RMSNorm(6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x)))


@pytest.mark.parametrize("how", HOWS)
def test_a_tied_weight_takes_in_a_gain_only_where_it_is_asked_for(how: str):
    """Moved into a tied embedding, a gain would change what goes into the model, too."""
    model, x = stirred(Tied()), torch.tensor([[1, 2, 3]])
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'head\.weight' is tied to 'embed\.weight'; untie it"):
        wnconvert.fuse(model, how=how)
    made, report = fused(model, x, how=how, untie=True)
    assert into(report) == {"norm": ("head.weight",)}
    assert torch.equal(made.embed.weight, model.embed.weight)
    assert made.head.weight is not made.embed.weight


@pytest.mark.parametrize("names", [1, 2])
def test_functions_that_read_one_weight_are_untied_too(names: int):
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.gain = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(6))
            if names == 2:
                self.head = self.weight

        def forward(self, x: Tensor) -> Tensor:
            y = F.embedding(x, self.weight) if names == 1 else F.embedding(x, self.head)
            return F.linear(y.relu() * self.gain, self.weight if names == 1 else self.head)

    model, x = stirred(Functional()), torch.tensor([[1, 2, 3]])
    with pytest.raises(wnconvert.NothingToConvertError):
        wnconvert.fuse(model, how="graph")
    made, report = fused(model, x, how="graph", untie=True)
    assert len(report.fused) == 1
    assert len({id(tensor) for tensor in made.parameters()}) == 2
    assert "gain" not in made.state_dict()


def test_a_computed_weight_is_folded_first():
    model = stirred(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), nn.BatchNorm1d(6)))
    with pytest.raises(wnconvert.NothingToConvertError, match="the weight of '_0' is computed; fold it first"):
        wnconvert.fuse(model)
    plain = wnconvert.fold(model).model
    _, report = fused(plain, torch.randn(2, 4, 7, dtype=torch.float64))
    assert into(report) == {"1": ("0.weight",)}
    graph = wnconvert.apply(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)).eval(), how="graph").model
    with pytest.raises(wnconvert.NothingToConvertError, match="the weight of '_0' is computed; fold it first"):
        wnconvert.fuse(graph)


def test_hooks_are_not_lost():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].register_forward_hook(lambda *args: None)
    with pytest.raises(wnconvert.NothingToConvertError, match="its module has hooks"):
        wnconvert.fuse(model)
    model = stirred(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)))
    model[0].register_forward_hook(lambda *args: None)
    with pytest.raises(wnconvert.NothingToConvertError, match="its module has hooks"):
        wnconvert.fuse(model)
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[0].register_forward_hook(lambda *args: None)
    with pytest.raises(wnconvert.NothingToConvertError):
        wnconvert.fuse(model)


def test_what_is_chosen_and_what_not():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    _, report = fused(
        model, torch.randn(2, 4, 5, 5, dtype=torch.float64), selection=wnconvert.Selection(exclude=("3",))
    )
    assert into(report) == {"1": ("0.weight",)}
    assert reasons(report) == {"3": "NOT_CHOSEN"}
    with pytest.raises(wnconvert.NothingToConvertError):
        wnconvert.fuse(model, ["gain"])
    with pytest.raises(wnconvert.UnknownNameError, match="unknown fusion 'batchnorm'"):
        wnconvert.fuse(model, ["batchnorm"])


def test_gradients_and_flags_of_what_is_frozen():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)))
    model[0].weight.requires_grad_(False)
    made, _ = wnconvert.fuse(model)
    assert not made[0].weight.requires_grad
    assert isinstance(made[0].bias, nn.Parameter)


def test_a_second_time_there_is_nothing():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    made, _ = wnconvert.fuse(model)
    with pytest.raises(wnconvert.NothingToConvertError, match="nothing to fuse: the model has no such normalization"):
        wnconvert.fuse(made)


def test_channels_last_stays():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))).to(memory_format=torch.channels_last)
    made, _ = wnconvert.fuse(model)
    assert made[0].weight.stride() == model[0].weight.stride()
