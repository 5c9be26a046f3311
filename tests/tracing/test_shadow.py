"""A forward that is traced falls on a stand-in; the model and the process stay as they are."""

from __future__ import annotations

import copy
import random
import threading
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.tracing.behaviour import generators
from tests.tracing.cases import Base, Deciding, Network, X
from wnconvert.errors import TracingError
from wnconvert.tracing.hazards import Hazard
from wnconvert.tracing.shadow import (
    fingerprints,
    is_leaf,
    reason_for_one_node,
    shadow_of,
    tensor_attributes,
)
from wnconvert.tracing.tracer import Observer
from wnconvert.tracing.tracing import trace


class Storing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last, self.seen = nn.Linear(4, 4), None, [[]]

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.extra = x
        self.seen[0].append(x)
        return self.linear(x)


LOOKS = {"trace": trace, "find": wnconvert.find_weighted_ops, "apply": wnconvert.apply}


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_a_forward_that_stores_its_input_keeps_no_proxy(look) -> None:
    model = Network(Storing())
    keys = list(vars(model.layers[0]))
    look(model)
    assert list(vars(model.layers[0])) == keys
    assert model.layers[0].last is None
    assert model.layers[0].seen == [[]]


class Noisy(Base):
    """It changes whatever there is to be changed."""

    shared: ClassVar[list[Tensor]] = []

    def forward(self, x):
        self.shared.append(x)
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        noise = torch.randn(4) + random.random() + float(np.random.rand())
        with torch.no_grad():
            self.fc.weight.add_(1)
            self.mean += 1
        self.fc.bias.data = noise
        self.note = 1
        return self.fc(x)


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_neither_the_model_nor_the_process_is_changed(look) -> None:
    model = Network(Noisy())
    before, state, attributes = generators(), copy.deepcopy(model.state_dict()), dict(vars(model.layers[0]))
    classes, members = [type(module) for module in model.modules()], (dict(vars(nn.Module)), dict(vars(Noisy)))
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
    look(model)
    assert generators() == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert vars(model.layers[0]) == attributes
    assert Noisy.shared == []
    assert [type(module) for module in model.modules()] == classes
    assert (dict(vars(nn.Module)), dict(vars(Noisy))) == members
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")) == modes


def test_another_thread_can_run_models_meanwhile() -> None:
    model, other, done, failures = Network(Deciding(), Storing()), Network(Deciding()), [], []
    expected = other(X)

    def run() -> None:
        while not done:
            try:
                if type(y := other(X)) is not Tensor or not torch.equal(y, expected) or not torch.is_grad_enabled():
                    failures.append(y)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(20):
            trace(model)
            wnconvert.find_weighted_ops(other)
    finally:
        done.append(True)
        thread.join()
    assert not failures


def test_a_container_of_the_class_that_a_forward_fills_is_state() -> None:
    class Logging(Base):
        seen: ClassVar[dict[str, Tensor]] = {}

        def forward(self, x):
            self.seen["last"] = x
            return self.fc(x)

    assert list(trace(Network(Logging())).meta["opaque"]) == ["layers.0"]
    with pytest.raises(TracingError, match="it keeps state in an attribute"):
        trace(Logging())
    assert not Logging.seen


def test_only_the_module_that_stores_what_nothing_is_known_of_is_one_node() -> None:
    class Appending(Storing):
        def forward(self, x):
            self.seen[0].append(x)
            return self.linear(x)

    class Handing(Network):
        def forward(self, x):
            return self.after(self.layers[0](x))

    assert list(trace(Handing(Appending())).meta["opaque"]) == ["layers.0"]


# the stand-in itself


def stand_in(model: nn.Module) -> nn.Module:
    observer = Observer({}, frozenset(Hazard))
    shadow = shadow_of(model, observer)
    observer.watch(shadow)
    return shadow


class Configured(Base):
    """It has a class attribute, a property, a static method, slots of every kind, and a registry of subclasses."""

    kinds: ClassVar[list[type]] = []

    def __init_subclass__(cls, **kwargs):
        Configured.kinds.append(cls)

    def prepare(self):
        self.options = {"sizes": [1, 2], "layer": self.fc}
        self.table = torch.rand(4)
        self.tied = nn.ModuleList([self.fc])

    @property
    def width(self):
        return self.fc.out_features

    @staticmethod
    def twice(x):
        return 2 * x

    def forward(self, x):
        return self.twice(self.fc(x)) * self.width + self.options["layer"](x)


def test_a_stand_in_holds_the_same_tensors_and_copies_of_all_else() -> None:
    model = Configured()
    shadow = stand_in(model)
    assert isinstance(shadow, Configured)
    assert type(shadow) is not Configured
    assert type(shadow).__name__ == "Configured"
    assert Configured.kinds == []
    assert shadow._modules["fc"] is not model.fc
    assert shadow._modules["fc"]._parameters["weight"] is model.fc.weight
    assert shadow._buffers["mean"] is model.mean
    assert shadow.__dict__["table"] is model.table
    assert shadow.options == {"sizes": [1, 2], "layer": shadow._modules["fc"]}
    assert shadow.options["sizes"] is not model.options["sizes"]
    assert shadow.tied[0] is shadow._modules["fc"]
    assert shadow.width == 4


def test_a_model_with_properties_and_modules_in_containers_is_traced_whole() -> None:
    graph_module = trace(Configured())
    assert not graph_module.meta["opaque"]
    assert torch.equal(graph_module(X), Configured()(X))


def test_what_cannot_be_copied_may_not_be_used() -> None:
    def forward(self, x):
        with self.lock:
            return self.fc(x)

    model = Base()
    model.lock = threading.Lock()
    assert stand_in(model).fc.out_features == 4
    locked = type("Locked", (Base,), {"forward": forward})()
    locked.lock = threading.Lock()
    assert list(trace(Network(locked)).meta["opaque"]) == ["layers.0"]
    assert not locked.lock.locked()


def test_an_attribute_that_only_a_leaf_has_need_not_be_copied() -> None:
    model = Network()
    model.after.lock = threading.Lock()
    assert torch.equal(trace(model)(X), model(X))


@pytest.mark.parametrize(
    ("change", "hazard"),
    [
        (lambda module: None, None),
        (lambda module: module.register_forward_hook(print), Hazard.HOOK),
        (lambda module: module.register_forward_pre_hook(print), Hazard.HOOK),
        (lambda module: module.register_full_backward_hook(print), Hazard.HOOK),
        (lambda module: module.register_full_backward_pre_hook(print), Hazard.HOOK),
        (lambda module: setattr(module, "forward", print), Hazard.CALL),
        (lambda module: module.compile(backend="eager"), Hazard.CALL),
        (lambda module: module.register_state_dict_pre_hook(print), Hazard.KEYS),
        (lambda module: module.register_state_dict_post_hook(lambda *args: None), Hazard.KEYS),
        (lambda module: module.register_load_state_dict_pre_hook(print), Hazard.KEYS),
        (lambda module: module.register_load_state_dict_post_hook(print), Hazard.KEYS),
    ],
)
def test_what_is_lost_with_the_module_itself(change, hazard) -> None:
    module = Network()
    change(module)
    assert reason_for_one_node(module, Network, is_root=True) is hazard
    assert reason_for_one_node(module, Network) is (None if hazard is Hazard.KEYS else hazard)


@pytest.mark.parametrize("name", ["state_dict", "load_state_dict", "get_extra_state", "train", "eval", "_apply"])
def test_a_method_of_its_own_that_saves_or_sets_a_mode_is_lost(name: str) -> None:
    kind = type("Own", (Network,), {name: lambda self, *args, **kwargs: getattr(Network, name)(self, *args, **kwargs)})
    assert reason_for_one_node(kind(), kind, is_root=True) is Hazard.KEYS
    assert reason_for_one_node(kind(), kind) is None


def test_leaves_are_those_of_torch_and_those_without_code() -> None:
    assert all(map(is_leaf, (nn.Linear, nn.LSTM, nn.ModuleList, torch.jit.ScriptModule)))
    assert not any(map(is_leaf, (nn.Sequential, Network)))


def test_what_containers_hold_has_a_fingerprint() -> None:
    model = Base()
    model.kept = {"a": [1.0, float("nan")], "object": SimpleNamespace()}
    before = fingerprints(model)
    assert fingerprints(model) == before
    model.kept["object"].n = 1
    assert fingerprints(model) != before
    del model.kept["object"].n
    assert fingerprints(model) == before
    model.kept["a"].append(0)
    assert fingerprints(model) != before


def test_tensors_in_attributes_are_known() -> None:
    model = Network(Base())
    model.mask, model.layers[0].tables = torch.rand(2), {"a": [model.after.weight, (torch.rand(3),)]}
    alone, held = tensor_attributes(dict(model.named_modules()))
    assert list(alone) == ["mask"]
    assert {id(model.mask), id(model.after.weight), id(model.layers[0].tables["a"][1][0])} == held.keys()


def test_what_a_forward_asks_of_a_stand_in_is_told_to_the_observer() -> None:
    """Registering, deleting, loading: each is state, which no graph keeps."""

    def registering(self, x):
        self.register_buffer("more", torch.ones(4))
        return self.fc(x)

    def deleting(self, x):
        del self.mean
        return self.fc(x)

    def loading(self, x):
        self.load_state_dict(self.state_dict())
        return self.fc(x)

    for forward in (registering, deleting, loading):
        kind = type("Model", (Base,), {"forward": forward})
        with pytest.raises(TracingError, match="it keeps state in an attribute"):
            trace(kind())
