"""The check of one model: apply and fold are exact, nothing is left out, and the original is not harmed."""

from __future__ import annotations

import builtins
import copy
import hashlib
import math
import operator
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

import wnconvert
from tests.fuzz.snapshot import seed_everything
from tests.fuzz.twins import Twins
from wnconvert.schemes.weight_norm import WeightNorm

#: arguments of one call of a model
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model of the zoo.

    Attributes:
        group: the section of the table that it stands in.
        family: the module or the model class that it stands for.
        name: name of the model.
        build: makes the model and the arguments of one call.
    """

    group: str
    family: str
    name: str
    build: Callable[[], tuple[nn.Module, Inputs]]

    def __str__(self) -> str:
        return f"{self.group}-{self.family}"


@dataclass
class Result:
    """What the check of one case found.

    Attributes:
        weights: floating parameters of rank 2 and up, tied ones once.
        ops: weights that enter weighted ops.
        converted: weights that were converted by default.
        skipped: reasons, with the number of weights.
        folded: weights that came normalized and were folded first.
        untrained: what the model itself raises in training mode, if it does.
        graph: "whole", "opaque regions" or "refused".
        opaque: what the graph does not look into: modules by their class, and helper functions.
        reasons: why there is no graph, or why parts of it are opaque.
        seconds: how long the whole check took.
    """

    weights: int = 0
    ops: int = 0
    converted: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    folded: int = 0
    untrained: str = ""
    graph: str = ""
    opaque: list[str] = field(default_factory=list)
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0


def check(case: Case) -> Result:
    """Convert one model forth and back, by default and as a graph, and compare it in both modes.

    Raises:
        AssertionError: a promise is broken.
    """
    start = time.perf_counter()
    seed_everything(0)
    model, inputs = case.build()
    _randomize(model)
    result = Result()
    model.eval()
    expected = evaluate(model, inputs)
    assert_telling(expected)
    before = Facts(model)

    plain = _fold_what_it_came_with(model, inputs, expected, result)
    _check_default(plain, inputs, expected, result)
    _check_graph(plain, inputs, result)

    before.assert_same(model)
    assert_same(evaluate(model, inputs), expected, "outputs of the original")
    result.seconds = time.perf_counter() - start
    return result


def _fold_what_it_came_with(model: nn.Module, inputs: Inputs, expected: Any, result: Result) -> nn.Module:
    """Fold the model, and return it without any normalization; a model that has none must stay as it is."""
    normalized = carries_normalization(model)
    folded, report = wnconvert.fold(model)
    result.folded = len(report.converted)
    assert result.folded or not normalized, f"nothing was folded: {report}"
    assert type(folded) is type(model), f"the folded model is a {type(folded).__name__}"
    assert not carries_normalization(folded)
    assert_same(evaluate(folded, inputs), expected, "outputs after fold")
    if not result.folded:
        assert_same_tensors(folded, model)
        return model
    assert not wnconvert.fold(folded).report.converted, "fold left something to fold"
    return folded


def _check_default(plain: nn.Module, inputs: Inputs, expected: Any, result: Result) -> None:
    """Convert a model in evaluation mode; compare it, fold it, and compare a training step."""
    before = Facts(plain)
    converted, report = wnconvert.apply(plain)
    before.assert_same(plain)
    assert type(plain) in type(converted).__mro__, f"the converted model is a {type(converted).__name__}"
    assert report.converted
    assert report.exact
    assert_same(evaluate(converted, inputs), expected, "outputs after apply")
    assert_accounted(plain, report)
    result.weights = len(weights_of(plain))
    result.ops = len(report.converted) + sum(bool(entry.op) for entry in report.skipped)
    result.converted = len(report.converted)
    result.skipped = Counter(re.sub(r"'[^']*'", "...", entry.reason) for entry in report.skipped)

    back = wnconvert.fold(converted).model
    assert_same_tensors(back, plain)
    assert_same(evaluate(back, inputs), expected, "outputs after apply and fold")
    result.untrained = compare_training(plain, converted, report, inputs)


def _check_graph(plain: nn.Module, inputs: Inputs, result: Result) -> None:
    """Convert a model as a graph, in training mode as it is built; a refusal with its reasons is an answer."""
    model = copy.deepcopy(plain).train()
    before = Facts(model)
    try:
        converted, report = wnconvert.apply(model, how="graph")
    except wnconvert.TracingError as error:
        before.assert_same(model)
        result.graph, result.reasons = "refused", tuple(str(error).splitlines())
        return
    before.assert_same(model)
    assert isinstance(converted, GraphModule)
    result.opaque = opaque_parts(converted)
    result.graph, result.reasons = "opaque regions" if result.opaque else "whole", report.notes
    assert_accounted(plain, report)
    compare_training(plain, converted, report, inputs)


def compare_training(plain: nn.Module, converted: nn.Module, report: wnconvert.Report, inputs: Inputs) -> str:
    """Compare a training step, and an evaluation after it; return what the model itself raises in training mode."""
    reference = copy.deepcopy(plain)
    twins = Twins(reference, converted, report, WeightNorm())
    try:
        expected = train(reference, inputs)
    except Exception as error:  # noqa: BLE001 - models of other packages may raise anything
        return f"{type(error).__name__}: {error}"
    actual = train(converted, inputs)
    assert_same(actual.outputs, expected.outputs, "outputs in training mode")
    buffers = dict(reference.named_buffers())
    # a graph has buffers of its own for the constants of its code
    same = {name: buffer for name, buffer in converted.named_buffers() if name in buffers}
    assert_same(same, buffers, "buffers after a step")
    assert_close(actual.gradients, twins.gradients(expected.gradients))
    twins.check_values()
    assert_same(evaluate(converted.eval(), inputs), evaluate(reference.eval(), inputs), "outputs after the step")
    return ""


@dataclass(frozen=True)
class Training:
    """What one step in training mode gave."""

    outputs: Any
    gradients: dict[str, Tensor]


def train(model: nn.Module, inputs: Inputs) -> Training:
    """Run one step in training mode, forward and backward, with random numbers that are the same each time."""
    args, kwargs = inputs
    model.train()
    seed_everything(1)
    outputs = model(*args, **kwargs)
    found = [value for _, value in leaves(outputs) if isinstance(value, Tensor) and value.requires_grad]
    assert found, "no output requires a gradient"
    torch.stack([(value.double() * torch.randn(value.shape)).sum() for value in found]).sum().backward()
    named = model.named_parameters(remove_duplicate=False)
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    model.zero_grad()
    return Training(outputs, gradients)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that the same parameters have gradients, and equal ones up to rounding."""
    assert actual.keys() == expected.keys(), f"gradients of others: {sorted(actual.keys() ^ expected.keys())[:8]}"
    for name, gradient in expected.items():
        # what a long sum cancels is not rounding at the size of the result, but at that of its terms
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(
            actual[name],
            gradient,
            rtol=1.3e-6,
            atol=1e-5 * scale,
            msg=lambda text, name=name: f"gradient of {name}: {text}",
        )


def weights_of(model: nn.Module) -> dict[int, set[str]]:
    """Return all names of each floating parameter of rank 2 and up, found without the help of wnconvert."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.dim() >= 2 and parameter.is_floating_point():
            names.setdefault(id(parameter), set()).add(name)
    return names


def assert_accounted(model: nn.Module, report: wnconvert.Report) -> None:
    """Assert that the report says of every weight what became of it, and of none that it is both."""
    converted = {entry.fqn for entry in report.converted}
    skipped = {name for entry in report.skipped for name in (entry.fqn, *entry.keys)}
    missing = [min(names) for names in weights_of(model).values() if not names & (converted | skipped)]
    assert not missing, f"{len(missing)} weights are not in the report: {missing[:8]}"
    assert not converted & skipped, f"converted and skipped: {sorted(converted & skipped)[:8]}"
    assert len(converted) == len(report.converted), "a weight is converted twice"


def carries_normalization(model: nn.Module) -> bool:
    """Whether torch's hooks or parametrizations, or the layers of timm that standardize, are in use in a model."""
    called = model.modules()
    if isinstance(model, GraphModule):
        called = [model.get_submodule(node.target) for node in model.graph.nodes if node.op == "call_module"]
        called = [inner for module in called for inner in module.modules()]
    return any(
        parametrize.is_parametrized(module)
        or any(hook.__class__.__module__.startswith("torch.nn.utils.") for hook in module._forward_pre_hooks.values())
        # a module that was folded as a graph of its own keeps the name of its class
        or (re.fullmatch(r"(Scaled)?StdConv2d(Same)?", type(module).__name__) and not isinstance(module, GraphModule))
        for module in called
    )


def opaque_parts(model: GraphModule) -> list[str]:
    """Return the classes of modules and the functions that a traced model does not look into."""
    known = {"torch", "builtins", "_operator", "math"}
    found = Counter[str]()
    for node in model.graph.nodes:
        if node.op == "call_module":
            kind = type(model.get_submodule(node.target))
            if not kind.__module__.startswith("torch.nn."):
                found[kind.__name__] += 1
        elif node.op == "call_function":
            package = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
            if package not in known and not any(
                getattr(each, node.target.__name__, None) is node.target for each in (builtins, math, operator)
            ):
                found[f"{node.target.__name__}()"] += 1
    return [f"{name} x{count}" if count > 1 else name for name, count in sorted(found.items())]


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs of a model, with random numbers that are the same each time."""
    args, kwargs = inputs
    seed_everything(1)
    return model(*args, **kwargs)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in a nested output, with the way to it."""
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, (list, tuple)):
        entries = list(enumerate(value))
    elif is_dataclass(value):
        entries = [(each.name, getattr(value, each.name)) for each in fields(value)]
    elif isinstance(value, (Tensor, str, int, float, type(None), torch.dtype, torch.device, type)):
        yield path, value
        return
    else:  # such as the caches of transformers
        entries = list(vars(value).items())
    yield path, type(value).__name__
    for key, entry in entries:
        yield from leaves(entry, f"{path}.{key}")


def assert_same(actual: Any, expected: Any, what: str) -> None:
    """Assert that two nested outputs are equal, tensors to the bit."""
    a, e = dict(leaves(actual)), dict(leaves(expected))
    assert a.keys() == e.keys(), f"{what} have another structure: {a.keys() ^ e.keys()}"
    for path, value in e.items():
        if isinstance(value, Tensor):
            same = a[path].dtype == value.dtype and a[path].stride() == value.stride() and torch.equal(a[path], value)
        else:
            same = a[path] == value
        assert same, f"{what} differ at {path or 'the root'}"


def assert_telling(outputs: Any) -> None:
    """Assert that outputs are finite, and not of one value only, which would show nothing."""
    tensors = [value for _, value in leaves(outputs) if isinstance(value, Tensor) and value.is_floating_point()]
    assert all(tensor.isfinite().all() for tensor in tensors), "the model's own outputs are not finite"
    assert any(tensor.numel() > 1 and tensor.unique().numel() > 1 for tensor in tensors), "the outputs are constant"


def assert_same_tensors(actual: nn.Module, expected: nn.Module) -> None:
    """Assert that two models have the same keys in the same order, with the same bits."""
    a, e = actual.state_dict(), expected.state_dict()
    assert list(a) == list(e), f"the keys differ: {sorted(a.keys() ^ e.keys())[:8] or 'in their order'}"
    for key, tensor in e.items():
        if isinstance(tensor, Tensor):
            assert a[key].dtype == tensor.dtype, f"{key} has another dtype"
            assert torch.equal(a[key], tensor), f"{key} has other bits"


class Facts:
    """What a model is at one time: its classes, its attributes, and the bits of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        # Python itself notes __slotnames__ in a class when it first copies an object of it
        self._kinds = {
            path: (type(module), vars(type(module)).keys() - {"__slotnames__"})
            for path, module in model.named_modules()
        }
        self._attributes = {path: _attributes(module) for path, module in model.named_modules()}
        self._kept = [value for module in model.modules() for value in vars(module).values()]
        self._digest = _digest(model)

    def assert_same(self, model: nn.Module) -> None:
        """Assert that a model has not been changed in any way."""
        now = Facts(model)
        assert now._kinds == self._kinds, "the original has other classes"
        for path, attributes in self._attributes.items():
            changed = {key for key, value in now._attributes[path].items() if attributes.get(key) != value}
            changed |= attributes.keys() - now._attributes[path].keys()
            assert not changed, f"the original has other attributes at {path or 'its root'}: {sorted(changed)}"
        assert now._digest == self._digest, "the original has other bits"


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module by identity, and those of torch's dicts entry by entry."""
    return {
        name: [(key, id(entry)) for key, entry in value.items()] if isinstance(value, dict) else id(value)
        for name, value in vars(module).items()
    }


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Disturb all parameters: many a branch begins with a gain of zero, and would show nothing."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
