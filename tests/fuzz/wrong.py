"""Converters that are wrong on purpose, each in one way, to see that the comparison finds it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import wnconvert
from tests.fuzz.differential import Way
from wnconvert.scheme import Scheme

Harm = Callable[[nn.Module, nn.Module], None]


def _no_report() -> wnconvert.Report:
    return wnconvert.Report()


def faithful(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Convert nothing, which is right."""
    return wnconvert.Conversion(copy.deepcopy(model), _no_report())


def plain_tracing(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
    """Believe what torch.fx traces."""
    try:
        graph_module = torch.fx.symbolic_trace(copy.deepcopy(model))
    except Exception as error:
        raise wnconvert.TracingError(str(error)) from error
    for node in graph_module.graph.nodes:
        node.type = None  # an annotation that is a text cannot be pickled
    return wnconvert.Conversion(graph_module, _no_report())


def harmful(harm: Harm) -> Way:
    """Make a way that copies a model and does one wrong thing to the copy, or to the original."""

    def convert(model: nn.Module, scheme: Scheme, example: tuple[Any, ...]) -> wnconvert.Conversion:
        copied = copy.deepcopy(model)
        harm(model, copied)
        return wnconvert.Conversion(copied, _no_report())

    return Way(harm.__name__, convert)


def _overriding(copied: nn.Module, forward: Callable[..., Any]) -> None:
    """Give a model another forward, which gets the old one, so that nothing but its behaviour shows it."""
    kind = type(copied)

    def changed(self: nn.Module, *args: Any) -> Any:
        return forward(self, super(type(self), self).forward, *args)

    copied.__class__ = type(kind.__name__, (kind,), {"forward": changed})


def _linear(model: nn.Module) -> nn.Linear:
    return next(module for module in model.modules() if isinstance(module, nn.Linear))


def drops_hooks(original: nn.Module, copied: nn.Module) -> None:
    for module in copied.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(module, name).clear()


def changes_one_bit_of_a_weight(original: nn.Module, copied: nn.Module) -> None:
    weight = _linear(copied).weight.data.view(-1)
    weight.view(torch.int32)[3] ^= 1


def forgets_the_mode(original: nn.Module, copied: nn.Module) -> None:
    """Bake the mode in, as a trace does."""

    def forward(self: nn.Module, forward: Callable[..., Any], x: Tensor) -> Tensor:
        mode, self.training = self.training, True
        try:
            return forward(x)
        finally:
            self.training = mode

    _overriding(copied, forward)


def freezes_a_weight(original: nn.Module, copied: nn.Module) -> None:
    _linear(copied).weight.requires_grad_(False)


def scales_a_gradient(original: nn.Module, copied: nn.Module) -> None:
    _linear(copied).bias.register_hook(lambda gradient: gradient * 1.001)


def changes_the_strides_of_the_output(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: forward(x).t().contiguous().t())


def changes_the_dtype_of_the_output(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: forward(x).double())


def returns_another_container(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: list(forward(x)))


def copies_what_it_returns(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: forward(x) * 1.0)


def draws_once_more(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: (forward(x), torch.rand(1))[0])


def draws_from_python_once_more(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: (forward(x), random.random())[0])


def writes_to_its_input(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: (forward(x * 1.0), x.detach().add_(1))[0])


def forgets_what_it_counts(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: (forward(x), setattr(self, "n", 1))[0])


def forgets_its_buffer(original: nn.Module, copied: nn.Module) -> None:
    _overriding(copied, lambda self, forward, x: (forward(x), self.seen.zero_())[0])


def works_once(original: nn.Module, copied: nn.Module) -> None:
    """Right in the first call only."""
    calls: list[int] = []
    _overriding(copied, lambda self, forward, x: forward(x) + (calls.append(1) or (len(calls) > 1)))


def renames_a_key(original: nn.Module, copied: nn.Module) -> None:
    copied.body = copied._modules.pop("fc")
    _overriding(copied, lambda self, forward, x: self.body(x))


def turns_the_keys(original: nn.Module, copied: nn.Module) -> None:
    linear = _linear(copied)
    linear._parameters["weight"] = linear._parameters.pop("weight")


def shares_with_the_original(original: nn.Module, copied: nn.Module) -> None:
    _linear(copied).weight = _linear(original).weight
    _linear(copied).weight.grad = torch.ones(8, 8)


def marks_the_original(original: nn.Module, copied: nn.Module) -> None:
    original.note = 1


def touches_a_tensor_of_the_original(original: nn.Module, copied: nn.Module) -> None:
    with torch.no_grad():
        _linear(original).weight.mul_(1.0)


def leaves_a_proxy_in_the_original(original: nn.Module, copied: nn.Module) -> None:
    original.seen = torch.fx.Proxy(torch.fx.Graph().placeholder("x"))


def leaves_a_proxy_in_the_result(original: nn.Module, copied: nn.Module) -> None:
    copied.seen = [torch.fx.Proxy(torch.fx.Graph().placeholder("x"))]


def changes_the_class_of_the_original(original: nn.Module, copied: nn.Module) -> None:
    type(original).note = 1


def draws_while_it_converts(original: nn.Module, copied: nn.Module) -> None:
    torch.rand(1)


def draws_from_python_while_it_converts(original: nn.Module, copied: nn.Module) -> None:
    random.random()


def patches_torch(original: nn.Module, copied: nn.Module) -> None:
    torch.note = 1


def loses_its_copies(original: nn.Module, copied: nn.Module) -> None:
    """A deep copy is another model."""
    copied.__class__ = type(type(copied).__name__, (type(copied),), {"__deepcopy__": lambda self, memo: nn.Identity()})


#: each harm, with a construct that shows it, and what must be said
WRONG: dict[Harm, tuple[str, str]] = {
    drops_hooks: ("CountingHookOfContainer", "attributes differ"),
    changes_one_bit_of_a_weight: ("CounterUnread", "output differs|has other bits"),
    forgets_the_mode: ("TrainingRead", r"step 4 \(evaluation.*output differs"),
    freezes_a_weight: ("CounterUnread", "other parameters have gradients"),
    scales_a_gradient: ("CounterUnread", "the gradient of fc.bias differs"),
    changes_the_strides_of_the_output: ("CounterUnread", "output differs"),
    changes_the_dtype_of_the_output: ("CounterUnread", "output differs"),
    returns_another_container: ("TupleOutput", "output differs"),
    copies_what_it_returns: ("InputReturned", "output differs"),
    draws_once_more: ("CounterUnread", "random numbers of torch differ afterwards"),
    draws_from_python_once_more: ("CounterUnread", "random numbers of Python differ afterwards"),
    writes_to_its_input: ("CounterUnread", "input 0 afterwards differs"),
    forgets_what_it_counts: ("CounterUnread", "attributes differ.*'.n'"),
    forgets_its_buffer: ("BufferWrittenUnread", "buffer seen differs"),
    works_once: ("CounterUnread", "step 1 .*output differs"),
    renames_a_key: ("CounterUnread", "the keys differ"),
    turns_the_keys: ("CounterUnread", "the keys differ"),
    shares_with_the_original: ("CounterUnread", "changed the original.*grad"),
    marks_the_original: ("CounterUnread", "changed the original.*note"),
    touches_a_tensor_of_the_original: ("CounterUnread", "changed the original.*weight"),
    leaves_a_proxy_in_the_original: ("CounterUnread", "changed the original.*a proxy"),
    leaves_a_proxy_in_the_result: ("CounterUnread", "a proxy is in the converted model"),
    changes_the_class_of_the_original: ("CounterUnread", "changed the original"),
    draws_while_it_converts: ("CounterUnread", "changed the process.*random numbers of torch"),
    draws_from_python_while_it_converts: ("CounterUnread", "changed the process.*random numbers of Python"),
    patches_torch: ("CounterUnread", "changed the process.*torch.note"),
    loses_its_copies: ("CounterUnread", "a deep copy"),
}
