"""The check of one model: apply and fold are exact, nothing is left out, and the original is not harmed."""

from __future__ import annotations

import builtins
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
        graph: weights converted in the graph.
        in_place: weights converted in place.
        opaque: what the graph does not look into: modules by their class, and helper functions.
        skipped: reasons, with the number of weights.
        folded: weights that came normalized and were folded first.
        seconds: how long the whole check took.
    """

    weights: int = 0
    ops: int = 0
    graph: int = 0
    in_place: int = 0
    opaque: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    folded: int = 0
    seconds: float = 0.0


@torch.no_grad()
def check(case: Case) -> Result:
    """Convert one model forth and back.

    Raises:
        AssertionError: a promise is broken.
    """
    start = time.perf_counter()
    torch.manual_seed(0)
    model, inputs = case.build()
    model.eval()
    _randomize(model)
    expected = run(model, inputs)
    assert_telling(expected)
    before = Facts(model)

    result = Result()
    plain = _fold_what_it_came_with(model, inputs, expected, result)
    converted = _apply(plain, inputs, expected, result)
    back = wnconvert.fold(converted).model
    assert_same_tensors(back, plain)
    assert_same(run(back, inputs), expected, "outputs after apply and fold")

    before.assert_same(model)
    assert_same(run(model, inputs), expected, "outputs of the original")
    result.seconds = time.perf_counter() - start
    return result


def _fold_what_it_came_with(model: nn.Module, inputs: Inputs, expected: Any, result: Result) -> nn.Module:
    """Fold the model, and return it without any normalization; a model that has none must stay as it is."""
    normalized = carries_normalization(model)
    folded, report = wnconvert.fold(model)
    result.folded = len(report.converted)
    assert result.folded or not normalized, f"nothing was folded: {report}"
    assert not carries_normalization(folded)
    assert_same(run(folded, inputs), expected, "outputs after fold")
    if not result.folded:
        assert_same_tensors(folded, model)
        return model
    assert not wnconvert.fold(folded).report.converted, "fold left something to fold"
    return folded


def _apply(plain: nn.Module, inputs: Inputs, expected: Any, result: Result) -> nn.Module:
    before = Facts(plain)
    converted, report = wnconvert.apply(plain)
    before.assert_same(plain)
    assert report.converted
    assert report.exact
    assert_same(run(converted, inputs), expected, "outputs after apply")
    assert_accounted(plain, report)
    result.weights = len(weights_of(plain))
    result.ops = len(report.converted) + sum(bool(entry.op) for entry in report.skipped)
    ways = Counter(entry.how for entry in report.converted)
    result.graph, result.in_place = ways.pop("graph", 0), ways.pop("in place", 0) + ways.pop("opaque region", 0)
    assert not ways, f"unknown ways: {ways}"
    result.skipped = Counter(re.sub(r"'[^']*'", "...", entry.reason) for entry in report.skipped)
    result.opaque = opaque_parts(converted)
    return converted


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
    # a computed weight is named after the parameters that it is computed from
    skipped = {name for entry in report.skipped for name in entry.fqn.split(", ")}
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
        or re.fullmatch(r"(Scaled)?StdConv2d(Same)?", type(module).__name__)
        for module in called
    )


def opaque_parts(model: nn.Module) -> list[str]:
    """Return the classes of modules and the functions that a traced model does not look into."""
    if not isinstance(model, GraphModule):
        return ["the whole model"]
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


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs of a model, with random numbers that are the same each time."""
    args, kwargs = inputs
    torch.manual_seed(1)
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
            same = a[path].dtype == value.dtype and torch.equal(a[path], value)
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


def _randomize(model: nn.Module) -> None:
    """Disturb all parameters: many a branch begins with a gain of zero, and would show nothing."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
