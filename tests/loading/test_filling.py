"""State dicts that are loaded child by child."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wnconvert.loading.filling import MANY, fill


class Net(nn.Module):
    """Many layers in a list, as models have them, beside others."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))
        self.norm = nn.BatchNorm1d(2)


class Own(nn.Sequential):
    """A list with a tensor of its own, and one with its own way to load."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.scale = nn.Parameter(torch.randn(2))


class Shifted(nn.Sequential):
    """Stores its weights one larger than they are."""

    asked = 0

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1  # torch asks the root alone
        return super().load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[key] = state_dict[key] - 1
        super()._load_from_state_dict(state_dict, prefix, *args)


def layers(count: int = MANY) -> list[nn.Module]:
    return [nn.Linear(2, 2) for _ in range(count)]


def hooked() -> nn.Module:
    inner = nn.Sequential(*layers())
    inner.register_load_state_dict_pre_hook(lambda module, entries, prefix, *rest: entries[f"{prefix}0.bias"].zero_())
    return nn.Sequential(inner)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(3),
        lambda: Net(MANY),
        lambda: nn.Sequential(Own(*layers()), nn.Identity()),
        lambda: nn.ModuleList([nn.Sequential(nn.BatchNorm1d(2), None) for _ in range(MANY)]),  # type: ignore[arg-type]
        hooked,
    ],
    ids=["few", "many", "with own", "None and buffers", "hooks"],
)
def test_it_does_what_torch_does(make: Any) -> None:
    source, ours, theirs = make(), make(), make()
    entries = {key: value.clone() for key, value in source.state_dict().items()}
    fill(ours, {key: value.clone() for key, value in entries.items()})
    theirs.load_state_dict({key: value.clone() for key, value in entries.items()}, strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    for lost in (next(iter(entries)), list(entries)[-2]):
        with pytest.raises(RuntimeError, match="Missing key"):
            fill(ours, {key: value for key, value in entries.items() if key != lost})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fill(ours, {**entries, "of.nothing": torch.ones(1)})


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Shifted(*layers())), lambda: Shifted(*layers())])
def test_a_class_that_loads_in_its_own_way_does(make: Any) -> None:
    ours, theirs = make(), make()
    entries = {key: value + 1 for key, value in make().state_dict().items()}
    fill(ours, dict(entries))
    theirs.load_state_dict(dict(entries))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert [getattr(each, "asked", 0) for each in ours.modules()] == [getattr(m, "asked", 0) for m in theirs.modules()]


def test_work_grows_with_the_number_of_layers_only() -> None:
    """torch compares each key with the prefix of each layer."""

    class Key(str):
        __slots__ = ()
        seen = 0

        def startswith(self, *args: Any) -> bool:  # type: ignore[override]
            Key.seen += 1
            return super().startswith(*args)

    counts = []
    for count in (MANY, 2 * MANY):
        model = nn.Sequential(*layers(count))
        Key.seen = 0
        fill(model, {Key(key): value for key, value in model.state_dict().items()})
        counts.append(Key.seen)
    assert counts[1] <= 2 * counts[0]
    Key.seen = 0
    model.load_state_dict({Key(key): value for key, value in model.state_dict().items()})
    assert Key.seen > MANY**2
