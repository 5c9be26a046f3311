"""The classes of converted modules: pickled, shared, and freed."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import bits_equal, label, variants
from tests.processes import run_code
from wnconvert.errors import WnconvertError
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def converted(model: nn.Module, scheme: str | Scheme = "weight_norm") -> nn.Module:
    resolved = resolve_scheme(scheme)
    apply_in_place(model, resolved, resolved.default_dim, Selection())  # type: ignore[arg-type]
    return model


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    model[1].weight = model[0].weight
    return model.eval()


LOAD = """
import sys, torch
assert "wnconvert" not in sys.modules
model = torch.load(sys.argv[1], weights_only=False)
x = torch.linspace(-1, 1, 12).reshape(3, 4)
with torch.no_grad():
    before = model(x)
torch.save(before, sys.argv[2])
import wnconvert
folded = wnconvert.fold(model, inplace=True).model
assert type(folded[0]) is torch.nn.Linear, type(folded[0])
assert folded[1].weight is folded[0].weight
with torch.no_grad():
    assert torch.equal(folded(x), before)
"""

HIDDEN = """
import sys, torch
assert "wnconvert" not in sys.modules
sys.modules["wnconvert"] = None  # as if it were not installed
torch.load(sys.argv[1], weights_only=False)
"""


@pytest.mark.parametrize("scheme", ["weight_norm", "network_norm", "spectral_norm"])
def test_a_saved_model_loads_elsewhere(tmp_path: Path, scheme: str) -> None:
    model = converted(network(), scheme)
    torch.save(model, tmp_path / "model.pt")
    done = run_code(LOAD, "model.pt", "output.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "output.pt"), model(X))


def test_where_wnconvert_is_missing_that_is_said(tmp_path: Path) -> None:
    torch.save(converted(network()), tmp_path / "model.pt")
    done = run_code(HIDDEN, "model.pt", cwd=tmp_path)
    assert done.code == 1
    assert "wnconvert" in done.err.splitlines()[-1]
    assert "Error" in done.err.splitlines()[-1]


def test_its_state_dict_is_made_of_tensors() -> None:
    model, buffer = converted(network()), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert list(loaded) == list(model.state_dict())


@pytest.mark.parametrize(
    # all protocols but the newest are as old as Python 3.4: each with some schemes
    ("scheme", "protocol"),
    [(each, number % pickle.HIGHEST_PROTOCOL) for number, each in enumerate(variants())]
    + [(each, pickle.HIGHEST_PROTOCOL) for each in variants()],
    ids=label,
)
def test_pickles_of_every_scheme(scheme: Scheme, protocol: int) -> None:
    model = converted(network(), scheme)
    loaded = pickle.loads(pickle.dumps(model, protocol))
    assert torch.equal(loaded(X), model(X))
    assert [type(module) for module in loaded.modules()] == [type(module) for module in model.modules()]
    assert loaded[1].get_parameter(f"weight_{scheme.direction}") is loaded[0].get_parameter(
        f"weight_{scheme.direction}"
    )


class Locked(nn.Linear):
    """A layer that holds what cannot be pickled, and says how to do without it."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()


def test_the_ways_of_its_class_are_kept() -> None:
    layer = converted(Locked())
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(twin(X), layer(X))
        assert twin.lock is not layer.lock


class Reducing(nn.Linear):
    """A layer that is pickled by how it was made."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.in_features, self.out_features)


def test_a_way_of_pickling_that_would_lose_the_parts_is_refused() -> None:
    with pytest.raises(WnconvertError, match="own way of pickling"):
        pickle.dumps(converted(Reducing(4, 4)))


def test_the_same_kind_of_module_has_one_class() -> None:
    one, two, three = (converted(nn.Linear(4, 4)) for _ in range(3))
    assert type(one) is type(two) is type(three)
    assert isinstance(one, nn.Linear)
    assert (type(one).__module__, type(one).__qualname__) == (nn.Linear.__module__, nn.Linear.__qualname__)


@pytest.mark.parametrize("scheme", ["weight_norm", "network_norm"])
def test_local_classes_and_converted_models_are_freed(scheme: str) -> None:
    def use() -> list[weakref.ref[object]]:
        class Inner(nn.Linear):
            pass

        class Local(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = Inner(4, 4)
                self.alias = [self.fc.weight]

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(x) + x @ self.alias[0]

        model = converted(Local(), scheme)
        model(X).sum().backward()
        return [weakref.ref(each) for each in (model, type(model), type(model.fc), Local, Inner)]

    dead = use()
    gc.collect()
    assert [each() for each in dead] == [None] * 5


def test_a_class_with_a_copy_of_its_own() -> None:
    class Counting(nn.Linear):
        def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
            twin = type(self).__new__(type(self))
            twin.__dict__.update({name: copy.deepcopy(v, memo) for name, v in self.__dict__.items()})
            twin.__dict__["copied"] = True
            return twin

    layer = converted(Counting(4, 4))
    twin = copy.deepcopy(layer)
    assert twin.copied
    assert torch.equal(twin(X), layer(X))
    expected = twin.weight.detach()
    fold_in_place(twin, Selection())
    assert bits_equal(twin.weight, expected)
    assert type(twin) is Counting


def test_a_subclass_made_later_still_loads() -> None:
    """As fully_shard does: the class of the module then derives from ours."""
    layer, other = converted(nn.Linear(4, 4)), nn.Linear(4, 4)
    layer.__class__ = type("Later", (type(layer),), {})
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(X), other(X))
    apply_in_place(layer, WeightNorm(), 0, Selection())
