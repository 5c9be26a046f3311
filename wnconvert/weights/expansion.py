"""Weighted modules as functions: write a call of the module as calls of functions, and find such calls again.

A graph can only put nodes in front of a weight that is an argument. So a `call_module` node of, say, `nn.Conv2d` is
expanded into the functions that its forward calls, with the weight as an operand; the module stays as the holder of
the parts, the bias and the hyper-parameters. `collapse` is the way back: the expansion is run into a scratch graph
and compared with the nodes at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import signature
from itertools import product
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node, Proxy

from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import (
    CALL_HOOKS,
    CONVOLUTION_METHODS,
    REVERSED_PADDING,
    convolve,
    is_erased,
    parameters_of,
    rename,
)
from wnconvert.weights import ops
from wnconvert.weights.template import Template

#: node.meta key: the keywords of the module call that a function call stands for, or None if it stands for none.
#: It is lost in pickling; then calls are taken for positional ones of the module that holds the weight.
_FORM = "wnconvert.call"
#: node.meta key: the type of the call's output size and the numbers before its last ones, which no call reads.
_SIZE = "wnconvert.output_size"

#: names of the parameters that an expansion takes besides its inputs
WEIGHT, BIAS = "weight", "bias"


@dataclass(frozen=True)
class ModuleRule:
    """How a class of modules uses its weight.

    Attributes:
        name: name of the weighted op.
        expand: writes the module's forward; called as ``expand(module, weight, bias, *args, **kwargs)``.
        output_dims: as in `wnconvert.weights.ops`, given the op's own node or the module's groups.
    """

    name: str
    expand: Callable[..., Any]
    output_dims: Callable[[nn.Module, tuple[int, ...]], tuple[int, ...] | None]


def rule_of_module(module: nn.Module) -> ModuleRule | None:
    """Return the rule of a module whose forward is that of a class in the table, or None."""
    base = _base_of(module)
    return MODULES[base] if base is not None else None


def _base_of(module: nn.Module) -> type | None:
    """Return the class in the table whose forward is that of ``module``, or None."""
    cls, own = type(module), vars(module)
    base = next((each for each in cls.__mro__ if each in MODULES), None)
    methods = [name for name in ("__call__", "forward", *CONVOLUTION_METHODS) if hasattr(base, name)]
    # adapters and offloaders give an instance a forward of its own
    same = all(getattr(cls, name) is getattr(base, name) and name not in own for name in methods)
    return base if same else None


def reason_against(module: nn.Module) -> Reason | None:
    """Return why a call of a weighted module cannot be expanded, or None if it can."""
    if any(getattr(module, hooks) for hooks in CALL_HOOKS):
        return Why.MODULE_HOOKS()
    return None


def expand(node: Node, module: nn.Module, weight: Node) -> None:
    """Turn a `call_module` node in place into the function calls of its module, with ``weight`` as the weight.

    The node itself becomes the last call: it keeps its name, its users and its meta.
    """
    graph = node.graph
    facts = _facts(module)
    names = [name for names in _input_names(MODULES[facts[0]]) for name in names]
    values = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    form = tuple(node.kwargs)
    given = tuple(name for name in names if values.get(name) is not None)
    sizes = values.get("output_size")
    template = _template(facts, given, len(sizes) if isinstance(sizes, (tuple, list)) else 0)
    if isinstance(sizes, (tuple, list)):
        values |= {f"output_size.{index}": size for index, size in enumerate(sizes)}
        start = tuple(sizes[: -len(module.kernel_size)])  # type: ignore[arg-type]
        node.meta[_SIZE] = type(sizes), start if all(isinstance(size, int) for size in start) else ()
    with graph.inserting_before(node):
        values[WEIGHT] = weight
        if BIAS in template.inputs:
            values[BIAS] = graph.create_node("get_attr", f"{node.target}.{BIAS}")
        template.write(graph, {name: values[name] for name in template.inputs}, into=node)
    node.meta[_FORM] = form


def collapse(node: Node, path: str, module: nn.Module, weight: Node) -> bool:
    """Turn the calls that `expand` writes for ``module`` in place back into a `call_module` node.

    Args:
        node: the last of the calls.
        path: dotted name of the module.
        module: a module that holds a plain weight again, or is about to.
        weight: the node that yields that weight.

    Returns:
        Whether the nodes were exactly such calls, and were replaced.
    """
    form = node.meta.get(_FORM, ())
    if form is None or is_erased(node) or rule_of_module(module) is None or reason_against(module):
        return False
    for given, sizes, template in _templates(_facts(module)):
        bound = template.match(node)
        if bound is None or bound[WEIGHT] is not weight:
            continue
        if BIAS in bound and not _fetches(bound[BIAS], f"{path}.{BIAS}"):
            continue
        if sizes:
            kind, start = node.meta.pop(_SIZE, (tuple, ()))
            bound["output_size"] = kind((*start, *(bound[f"output_size.{index}"] for index in range(sizes))))
        old = node.all_input_nodes
        node.op, node.target = "call_module", path
        node.args = tuple(bound[name] for name in given if name not in form)
        node.kwargs = {name: bound[name] for name in given if name in form}
        node.meta.pop(_FORM, None)
        erase_unused(old)
        name_after_target(node)
        return True
    return False


def is_forward_of(module: nn.Module, graph: Graph) -> bool:
    """Return whether a graph, traced with ``module`` as the root, does just what the module's class does."""
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if not isinstance(result, Node):
        return False
    for given, _, template in _templates(_facts(module)):
        bound = template.match(result)
        if bound is not None and _fetches(bound[WEIGHT], WEIGHT) and (BIAS not in bound or _fetches(bound[BIAS], BIAS)):
            return [bound.get(name) for name in given] == inputs[: len(given)]
    return False


def keep_as_function(node: Node) -> None:
    """Remember that a call was one of a function before its weight was replaced, so that `collapse` leaves it."""
    node.meta[_FORM] = None


def _linear(module: Any, weight: Any, bias: Any, input: Any) -> Any:
    return F.linear(input, weight, bias)


def _bilinear(module: Any, weight: Any, bias: Any, input1: Any, input2: Any) -> Any:
    return F.bilinear(input1, input2, weight, bias)


def _conv(module: Any, weight: Any, bias: Any, input: Any) -> Any:
    return convolve(module, input, weight, bias)


def _conv_transpose(module: Any, weight: Any, bias: Any, input: Any, output_size: Any = None) -> Any:
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(module.kernel_size)]
    padding = module.output_padding if output_size is None else _output_padding(module, input, output_size)
    return function(input, weight, bias, module.stride, module.padding, padding, module.groups, module.dilation)


def _output_padding(module: Any, input: Any, output_size: Any) -> tuple[Any, ...]:
    """What torch's transposed convolutions compute, written for proxies: sizes count from the last dim."""
    rank = len(module.kernel_size)
    least = [
        (input.size(dim - rank) - 1) * module.stride[dim]
        - 2 * module.padding[dim]
        + module.dilation[dim] * (module.kernel_size[dim] - 1)
        + 1
        for dim in range(rank)
    ]
    return tuple(output_size[dim - rank] - least[dim] for dim in range(rank))


def _embedding(module: Any, weight: Any, bias: Any, input: Any) -> Any:
    return F.embedding(
        input, weight, module.padding_idx, module.max_norm, module.norm_type, module.scale_grad_by_freq, module.sparse
    )


def _embedding_bag(
    module: Any, weight: Any, bias: Any, input: Any, offsets: Any = None, per_sample_weights: Any = None
) -> Any:
    return F.embedding_bag(
        input,
        weight,
        offsets,
        module.max_norm,
        module.norm_type,
        module.scale_grad_by_freq,
        module.mode,
        module.sparse,
        per_sample_weights,
        module.include_last_offset,
        module.padding_idx,
    )


def _transposed(module: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return ops.transposed(module.groups, shape)


#: module class -> rule
MODULES: dict[type, ModuleRule] = {
    nn.Linear: ModuleRule("linear", _linear, ops.first),
    nn.Bilinear: ModuleRule("bilinear", _bilinear, ops.first),
    nn.Conv1d: ModuleRule("conv1d", _conv, ops.first),
    nn.Conv2d: ModuleRule("conv2d", _conv, ops.first),
    nn.Conv3d: ModuleRule("conv3d", _conv, ops.first),
    nn.ConvTranspose1d: ModuleRule("conv_transpose1d", _conv_transpose, _transposed),
    nn.ConvTranspose2d: ModuleRule("conv_transpose2d", _conv_transpose, _transposed),
    nn.ConvTranspose3d: ModuleRule("conv_transpose3d", _conv_transpose, _transposed),
    nn.Embedding: ModuleRule("embedding", _embedding, ops.last),
    nn.EmbeddingBag: ModuleRule("embedding_bag", _embedding_bag, ops.last),
}


#: a module's class in the table, whether it has a bias, and by name all attributes that its expansion depends on
_Facts: TypeAlias = tuple[Any, bool, tuple[tuple[str, Any], ...]]


def _facts(module: nn.Module) -> _Facts:
    """Return what the templates of a module are made of, and cached by: values alone, so that no module is kept."""
    base: Any = _base_of(module)
    constants = tuple((name, getattr(module, name, None)) for name in base.__constants__)
    padding = tuple(getattr(module, REVERSED_PADDING, ()))
    return base, parameters_of(module).get(BIAS) is not None, (*constants, (REVERSED_PADDING, padding))


def _stand_in(facts: _Facts) -> tuple[Any, ModuleRule]:
    """Return a module without tensors that expands as those with these facts do, and its rule."""
    base, _, constants = facts
    module = object.__new__(base)
    module.__dict__.update(constants)
    module.__dict__[REVERSED_PADDING] = list(module.__dict__[REVERSED_PADDING])
    return module, MODULES[base]


@lru_cache(maxsize=4096)
def _template(facts: _Facts, given: tuple[str, ...], sizes: int) -> Template:
    """Run one form of call of a module: the inputs that are given, an output size of ``sizes`` numbers or in one."""
    module, rule = _stand_in(facts)
    inputs = [name for name in given if not (sizes and name == "output_size")]
    inputs += [f"output_size.{index}" for index in range(sizes)]
    _, has_bias, _ = facts

    def write(proxies: Mapping[str, Proxy]) -> Proxy:
        values: dict[str, Any] = {name: proxies[name] for name in given if name in proxies}
        if sizes:
            values["output_size"] = tuple(proxies[f"output_size.{index}"] for index in range(sizes))
        return rule.expand(module, proxies[WEIGHT], proxies.get(BIAS), **values)

    return Template((WEIGHT, *([BIAS] if has_bias else []), *inputs), write)


@lru_cache(maxsize=4096)
def _templates(facts: _Facts) -> tuple[tuple[tuple[str, ...], int, Template], ...]:
    """Return every form of call of a module: each optional input given or left out."""
    module, rule = _stand_in(facts)
    required, optional = _input_names(rule)
    rank = len(getattr(module, "kernel_size", ()))
    forms = []
    for chosen in product((False, True), repeat=len(optional)):
        given = required + tuple(name for name, is_given in zip(optional, chosen, strict=True) if is_given)
        possible = (0, rank, rank + 2) if "output_size" in given else (0,)
        forms += [(given, sizes, _template(facts, given, sizes)) for sizes in possible]
    return tuple(forms)


@cache
def _input_names(rule: ModuleRule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the required and of the optional inputs."""
    inputs = list(signature(rule.expand).parameters.values())[3:]
    required = tuple(parameter.name for parameter in inputs if parameter.default is parameter.empty)
    return required, tuple(parameter.name for parameter in inputs if parameter.default is not parameter.empty)


def _fetches(node: Any, fqn: str) -> bool:
    return isinstance(node, Node) and node.op == "get_attr" and node.target == fqn


def erase_unused(nodes: list[Node]) -> None:
    """Erase get_attr and call nodes that nothing reads any more, and then what only they read."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if not is_erased(node) and not node.users and node.op != "placeholder":
            pending += node.all_input_nodes
            node.graph.erase_node(node)


def name_after_target(node: Node) -> bool:
    """Give a node the name that tracing gives it; a graph that was pickled may have forgotten it.

    Returns:
        Whether it had another one. A name that differs by a number only is kept: tracing numbers equal names.
    """
    name = str(node.target).replace(".", "_")
    if node.name.rstrip("0123456789").rstrip("_") == name.rstrip("0123456789").rstrip("_"):
        return False
    rename(node, name)
    return True
