"""A copy of a model shares nothing with it and loses nothing; what cannot be copied is refused."""

from __future__ import annotations

import threading
import types
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from tests.tracing.cases import Base, X
from wnconvert.errors import CopyError
from wnconvert.graph.copying import clone


class Plain(Base):
    def forward(self, x):
        return self.fc(x)


# gradient hooks


def test_gradient_hooks_are_carried_over() -> None:
    model, calls = Plain(), []
    model.fc.weight.register_hook(lambda grad: grad * 3)
    model.fc.bias.register_post_accumulate_grad_hook(calls.append)
    copied = clone(model)
    model(X).sum().backward()
    copied(X).sum().backward()
    assert torch.equal(copied.fc.weight.grad, model.fc.weight.grad)
    assert [id(parameter) for parameter in calls] == [id(model.fc.bias), id(copied.fc.bias)]


def test_the_hooks_of_a_copy_are_its_own() -> None:
    model = Plain()
    copied = clone(model)
    copied.fc.weight.register_hook(lambda grad: grad * 3)
    assert not model.fc.weight._backward_hooks
    hook = model.fc.bias.register_hook(lambda grad: grad * 3)
    again = clone(model)
    hook.remove()
    again(X).sum().backward()
    model(X).sum().backward()
    assert torch.equal(again.fc.bias.grad, model.fc.bias.grad * 3)


def test_hooks_of_tied_parameters_are_carried_over_once() -> None:
    model, calls = Plain(), []
    model.again = model.fc
    model.alias = model.fc.weight
    model.fc.weight.register_hook(calls.append)
    clone(model)(X).sum().backward()
    assert len(calls) == 1


# forwards that are functions over the model's own modules


def _closure(model: nn.Module) -> None:
    forward = model.fc.forward
    model.fc.forward = lambda x: forward(x) * 2


def _closure_over_a_module(model: nn.Module) -> None:
    model.forward = lambda x: model.fc(x)


def _closure_over_a_tensor(model: nn.Module) -> None:
    scale = model.mean
    model.forward = lambda x: x * scale


def _partial(model: nn.Module) -> None:
    model.fc.forward = partial(nn.Linear.forward, model.fc)


def _method(model: nn.Module) -> None:
    model.fc.forward = types.MethodType(lambda self, x: nn.Linear.forward(self, x) * 2, model.fc)


def _cells(model: nn.Module) -> None:
    factor = 2.0
    model.forward = lambda x: x * factor


@pytest.mark.parametrize("change", [_closure, _closure_over_a_module, _closure_over_a_tensor])
def test_a_forward_over_the_models_own_modules_is_refused(change) -> None:
    model = Plain()
    change(model)
    with pytest.raises(CopyError, match="is a function over its modules; convert it where it is, with inplace=True"):
        clone(model)


@pytest.mark.parametrize("change", [_partial, _method, _cells])
def test_a_forward_that_copies_with_the_module_is_copied(change) -> None:
    model = Plain()
    change(model)
    copied = clone(model)
    expected = model(X)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert torch.equal(copied(X), expected)


# what deepcopy refuses


def test_what_cannot_be_copied_is_named() -> None:
    model = Plain()
    model.lock = threading.Lock()
    with pytest.raises(CopyError, match=r"'Plain' cannot be copied: TypeError: cannot pickle.*inplace=True"):
        clone(model)


def test_computed_tensors_are_copied_as_values() -> None:
    model = Plain()
    model.last = model(X)
    model.kept = [model.last * 2]
    model.by_name = {"last": model.last * 3}
    copied = clone(model)
    assert torch.equal(copied.last, model.last)
    assert torch.equal(copied.kept[0], model.kept[0])
    assert torch.equal(copied.by_name["last"], model.by_name["last"])
    assert copied.last.grad_fn is None
    assert copied.last.data_ptr() != model.last.data_ptr()


@pytest.mark.parametrize("holder", [dict, tuple])
def test_computed_tensors_deep_in_containers_are_refused(holder) -> None:
    model = Plain()
    model.kept = holder([("last", [model(X)])])
    with pytest.raises(CopyError, match="RuntimeError: Only Tensors created explicitly"):
        clone(model)


def test_a_copy_made_in_inference_mode_can_be_trained() -> None:
    model = Plain()
    with torch.inference_mode():
        copied = clone(model)
    assert not any(parameter.is_inference() for parameter in copied.parameters())
    copied(X).sum().backward()
    assert copied.fc.weight.grad is not None


# what deepcopy loses


def graph_module() -> GraphModule:
    class Tied(Plain):
        def prepare(self):
            self.alias = self.fc.weight
            self.again = self.fc
            self.register_buffer("offset", torch.ones(4), persistent=False)
            self.register_buffer("nothing", None)
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.fc(x) + self.offset

    model = Tied()
    traced = symbolic_trace(model)
    for name, contents in (("_parameters", "_parameters"), ("_buffers", "_buffers"), ("_modules", "_modules")):
        traced.__dict__[name] = dict(getattr(model, contents))
    traced._non_persistent_buffers_set = set(model._non_persistent_buffers_set)
    return traced


def test_a_graph_module_of_torch_keeps_all_names() -> None:
    traced = graph_module()
    keys = ["unused", "alias", "mean", "fc.weight", "fc.bias", "again.weight", "again.bias"]
    assert sorted(traced.state_dict()) == sorted(keys)
    copied = clone(traced)
    assert list(copied.state_dict()) == list(traced.state_dict())
    assert copied.again is copied.fc
    assert copied.alias is copied.fc.weight
    assert copied.alias is not traced.alias
    assert copied._buffers["nothing"] is None
    assert torch.equal(copied(X), traced(X))


def test_a_plain_module_with_an_attribute_of_the_users_is_copied_with_it() -> None:
    model = nn.Linear(2, 2)
    model.note, model.tied = {"list": [1]}, model.weight
    copied = clone(model)
    assert copied.note == {"list": [1]}
    assert copied.note["list"] is not model.note["list"]
    assert copied.tied is copied.weight
    assert isinstance(copied.weight, nn.Parameter)


def test_a_module_with_a_copy_of_its_own_is_asked_for_it() -> None:
    class Counting(nn.Linear):
        copies = 0

        def __deepcopy__(self, memo: dict[int, object]) -> Counting:
            type(self).copies += 1
            copied = Counting(2, 2)
            memo[id(self)] = copied
            return copied

    clone(nn.Sequential(Counting(2, 2)))
    assert Counting.copies == 1


def test_nothing_of_a_copy_is_the_models() -> None:
    model = nn.Sequential(Plain(), nn.BatchNorm1d(4), nn.Dropout(0.1)).eval()
    model[0].fc.weight.requires_grad_(False)
    copied = clone(model)
    assert [type(module) for module in copied.modules()] == [type(module) for module in model.modules()]
    own = {id(x) for module in model.modules() for x in (module, module._parameters, module._buffers, module._modules)}
    others = (x for module in copied.modules() for x in (module, module._parameters, module._buffers, module._modules))
    assert not own & {id(x) for x in others}
    tensors: list[Tensor] = [*copied.parameters(), *copied.buffers()]
    assert not {x.data_ptr() for x in tensors} & {x.data_ptr() for x in (*model.parameters(), *model.buffers())}
    assert [x.requires_grad for x in copied.parameters()] == [x.requires_grad for x in model.parameters()]
    assert not copied[0].fc.training


VIEWS = {
    "a parameter": lambda weight: nn.Parameter(weight.detach().t()),
    "a tensor": lambda weight: weight.detach()[1:],
    "a computed tensor": lambda weight: weight.t(),
    "a list": lambda weight: [weight.detach()[1:]],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_what_shares_memory_in_the_model_does_so_in_the_copy(kind: str) -> None:
    model = Plain()
    model.view = VIEWS[kind](model.fc.weight)
    copied = clone(model)
    before, view = model.fc.weight.detach().clone(), copied.view[0] if kind == "a list" else copied.view
    with torch.no_grad():
        copied.fc.weight.zero_()
    assert not view.any()
    assert type(copied.view) is type(model.view)
    assert copied.fc.weight.requires_grad
    assert torch.equal(model.fc.weight, before)


def test_a_copy_has_the_strides_of_the_model() -> None:
    model = Plain()
    model.fc.weight = nn.Parameter(torch.rand(4, 8)[:, ::2])
    assert clone(model).fc.weight.stride() == (8, 2)


def test_tensors_that_cannot_be_copied_are_said_to_be_so():
    lazy, sparse = nn.LazyBatchNorm1d(), nn.Linear(3, 3)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    for model, reason in ((lazy, "uninitialized parameter"), (sparse, "memory format")):
        with pytest.raises(CopyError, match=rf"cannot be copied: .*{reason}.*inplace=True"):
            clone(nn.Sequential(model))


def test_a_copy_can_share_some_tensors() -> None:
    model, calls = Plain(), []
    model.register_buffer("count", torch.zeros(1))
    model.fc.weight.register_hook(lambda gradient: calls.append(1))
    copied = clone(model, sharing=model.parameters())
    assert all(one is other for one, other in zip(copied.parameters(), model.parameters(), strict=True))
    assert copied.fc is not model.fc
    assert copied.count is not model.count
    copied.fc.weight.sum().backward()
    assert calls == [1]
