"""What is done to modules besides training them: beside torch's own parametrized ones."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from tests.circumstances.twins import (
    KINDS,
    WEIGHTED,
    batches,
    compare,
    loss,
    ours,
    read,
    renamed,
    theirs,
    train,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(kind: str, dtype: torch.dtype) -> None:
    def scenario(model: nn.Module) -> Any:
        model.to(dtype)
        loss(model, next(batches(1)).to(dtype)).backward()
        output = model.eval()(next(batches(1)).to(dtype))
        model.float().train()
        return output, train(model, batches(2)), read(model)

    if kind == "spectral_norm" and dtype != torch.float64:
        pytest.skip("torch computes sigma by another kernel, which rounds elsewhere in half precision")
    compare(scenario, kind)


def test_memory_format(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        model.to(memory_format=torch.channels_last)
        inputs = [x.to(memory_format=torch.channels_last) for x in batches(3)]
        return train(model, inputs), read(model)

    compare(scenario, kind)


def test_the_ways_to_move(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        model.share_memory()
        model.to("cpu", non_blocking=True)
        shapes = sorted(tuple(tensor.shape) for tensor in copy.deepcopy(model).to("meta").state_dict().values())
        model.to_empty(device="cpu")
        model.load_state_dict(state)
        return shapes, model(next(batches(1)))

    compare(scenario, kind)


def test_names(kind: str) -> None:
    mine, their = ours(kind), theirs(kind)
    for of in (nn.Module.named_parameters, nn.Module.named_buffers):
        shapes = {renamed(name, kind): tensor.shape for name, tensor in of(their)}
        assert {name: tensor.shape for name, tensor in of(mine)} == shapes
    assert set(mine.state_dict()) == {renamed(name, kind) for name in their.state_dict()}
    assert "weight" not in dict(mine.conv.named_parameters())
    assert [name for name, _ in mine.named_modules()] == [
        name for name, _ in their.named_modules() if "parametrizations" not in name
    ]


def test_assigning_a_state_dict(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        state = {key: tensor.double() for key, tensor in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        assert all(tensor.data_ptr() == state[key].data_ptr() for key, tensor in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        return train(model, [x.double() for x in batches(2)])

    compare(scenario, kind)


def test_a_state_dict_that_does_not_fit(kind: str) -> None:
    for model in (theirs(kind), ours(kind)):
        state = model.state_dict()
        key = next(key for key in state if key.startswith("head") and "bias" not in key)
        del state[key]
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(state)
        assert model.load_state_dict(state, strict=False).missing_keys == [key]


def test_functional_call(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        values = {name: parameter * 2 for name, parameter in model.named_parameters()}
        functional_call(model, values, (next(batches(1)),)).sum().backward()
        return functional_call(model, values, (next(batches(1)),)).detach()

    compare(scenario, kind)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap(kind: str) -> None:
    compare(lambda model: vmap(lambda x: model(x[None])[0])(next(batches(1))), kind)


def test_hooks(kind: str) -> None:
    def scenario(model: Any) -> Any:
        calls: list[str] = []
        layer = model.head
        handles = [
            layer.register_forward_pre_hook(lambda module, args: calls.append("before")),
            layer.register_forward_hook(lambda module, args, output: output * 2),
            layer.register_full_backward_hook(lambda module, inputs, outputs: calls.append("backward")),
            layer.register_full_backward_pre_hook(lambda module, outputs: calls.append("backward before")),
            model.register_state_dict_post_hook(lambda *_: calls.append("saved")),
            model.register_load_state_dict_post_hook(lambda *_: calls.append("loaded")),
        ]
        with_hooks = loss(model, next(batches(1)))
        with_hooks.backward()
        model.load_state_dict(model.state_dict())
        twin = copy.deepcopy(model)
        for handle in handles:
            handle.remove()
        return calls, with_hooks.detach(), loss(twin, next(batches(1))).detach(), loss(model, next(batches(1))).detach()

    compare(scenario, kind)


def test_applying_a_function(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        seen: list[str] = []

        def visit(module: nn.Module) -> None:
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                seen.append(f"{type(module).__mro__[-2].__name__} {tuple(module.weight.shape)}")
                nn.init.zeros_(module.bias)
                nn.init.zeros_(module.weight)  # of what is computed anew: as with torch's, it changes nothing

        model.apply(visit)
        return seen, model(next(batches(1)))

    compare(scenario, kind)


def test_the_weight_is_an_attribute_that_is_computed(kind: str) -> None:
    def scenario(model: Any) -> Any:
        layer = model.eval().head
        before = layer.weight.detach().clone()
        layer.weight.data.fill_(7)
        with torch.no_grad():
            layer.weight.mul_(2)
        assert torch.equal(layer.weight, before)
        with pytest.raises(KeyError, match="already exists"):
            layer.weight = nn.Parameter(torch.ones(3, 4))
        with pytest.raises(AttributeError):
            del layer.weight
        assert not isinstance(layer.weight, nn.Parameter)
        assert layer.weight.requires_grad
        return before, hasattr(layer, "weight"), hasattr(layer, "no_such"), layer.weight.grad_fn is not None

    compare(scenario, kind)


def test_a_weight_may_be_set(kind: str) -> None:
    value = torch.arange(1.0, 13.0).reshape(3, 4)

    def scenario(model: Any) -> Any:
        model.head.weight = value
        return model.eval().head.weight.detach()

    if kind == "spectral_norm":
        for model in (theirs(kind), ours(kind)):
            # the state is another one: torch's keeps what it had, ours begins anew
            assert scenario(model).shape == value.shape
        return
    their, mine = scenario(theirs(kind)), scenario(ours(kind))
    torch.testing.assert_close(their, value)
    assert torch.equal(mine, value)


def test_modes(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        x, found = next(batches(1)), []
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            for training in (True, False):
                model.train(training)
                with mode():
                    found.append(model(x).clone())
                    assert found[-1].requires_grad == (mode is torch.enable_grad)
        return [result.detach() for result in found]

    compare(scenario, kind)


def test_threads(kind: str) -> None:
    model, x = ours(kind).eval(), next(batches(1))
    with torch.inference_mode():
        expected = model(x)
    barrier, found = threading.Barrier(2), []

    def run() -> None:
        for index in range(30):
            barrier.wait()
            with torch.inference_mode(bool(index % 2)), torch.no_grad():
                found.append(model(x))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert all(torch.equal(result, expected) for result in found)


def test_a_replica_for_data_parallel(kind: str) -> None:
    model = ours(kind).eval()
    for path in WEIGHTED:
        layer = model.get_submodule(path)
        replica: Any = layer._replicate_for_data_parallel()
        for name, parameter in layer.named_parameters():
            setattr(replica, name, parameter * 1)
        assert torch.equal(replica.weight, layer.weight)
        assert not isinstance(replica.weight, nn.Parameter)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_tracing_to_torchscript(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        traced = torch.jit.trace(model.eval(), (next(batches(1)),), check_trace=False)
        return traced(next(batches(1, seed=4)))

    compare(scenario, kind)


def test_a_layer_is_shared_by_two_models(kind: str) -> None:
    def scenario(model: Any) -> Any:
        other = nn.Sequential(model.inner, nn.Linear(4, 1))
        torch.nn.init.ones_(other[1].weight)
        torch.nn.init.zeros_(other[1].bias)
        (other(torch.ones(2, 4)).sum() + model(next(batches(1))).sum()).backward()
        return other(torch.ones(2, 4)).detach()

    compare(scenario, kind)


def test_swapping_the_tensors(kind: str) -> None:
    def scenario(model: nn.Module) -> Any:
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.double()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)
        return model(next(batches(1)).double())

    compare(scenario, kind)


def test_a_child_is_replaced(kind: str) -> None:
    def scenario(model: Any) -> Any:
        kept: nn.Module = model.head
        model.head = nn.Identity()
        without = model(next(batches(1)))
        model.head = kept
        return without, model(next(batches(1)))

    compare(scenario, kind)
