"""What several test files need: exact comparison, schemes run over whole networks, schemes run on proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.fx.node import map_aggregate
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._python_dispatch import TorchDispatchMode

from wnconvert.scheme import SCHEMES, Parts, Scheme, WeightSpec

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def bits(tensor: Tensor) -> Tensor:
    """Return the bits of a floating-point tensor as integers: 0.0 differs from -0.0, and nan equals itself."""
    return tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two floating-point tensors have one dtype, one shape and the same bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Assert that two tensors are finite and bit-identical, and tell how many elements differ."""
    assert expected.isfinite().all(), f"the expected tensor is not finite: {expected}"
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    differing = bits(actual) != bits(expected)
    assert not differing.any(), (
        f"{int(differing.sum())} of {differing.numel()} elements differ: {actual[differing]} != {expected[differing]}"
    )


def assert_close_in(dtype: torch.dtype, actual: Tensor, expected: Tensor, roundings: int) -> None:
    """Assert that no element is off by more than ``roundings`` units of rounding of ``dtype``, at the largest element.

    For what is computed in ``dtype`` by a known number of operations, where the default tolerances of
    `torch.testing.assert_close`, made for one or two of them, are too narrow.
    """
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max().item()
    bound = roundings * torch.finfo(dtype).eps * max(expected.double().abs().max().item(), torch.finfo(dtype).tiny)
    assert error <= bound, f"largest error {error} exceeds {bound}"


def sample(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A generic weight: neither mean zero nor unit length, and no two channels alike."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3 + 0.1).to(dtype)


def with_zeros(weight: Tensor, kept: tuple[int, ...]) -> Tensor:
    """The weight with its first channel zero, with both signs of zero."""
    result = weight.clone()
    channel = result[tuple(0 if dim in kept else slice(None) for dim in range(weight.dim()))]
    channel.copy_(torch.copysign(torch.zeros_like(channel), channel))
    return result


def perturbed(parts: Sequence[Parts], scheme: Scheme) -> list[dict[str, Tensor]]:
    """The parts as if they had been trained: a magnitude may be negative or zero."""
    result, changed = [], {}
    for own in parts:
        for part in trained(scheme):
            if id(own[part]) not in changed:
                value = own[part] + sample(*own[part].shape, dtype=own[part].dtype, seed=7)
                if part != scheme.direction and value.numel() > 2:
                    value = value.flatten().index_fill(0, torch.tensor([0]), 0.0).view_as(value)
                    value.view(-1)[1] *= -1
                changed[id(own[part])] = value
        result.append({part: changed.get(id(tensor), tensor) for part, tensor in own.items()})
    return result


class Float32List(TorchDispatchMode):
    """Compute what autocast computes in float32 on CUDA in float32 here too: the part of its list that schemes use.

    See AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE in ATen/autocast_mode.h. On the CPU, autocast has no such list.
    """

    OPS = frozenset({"exp", "log", "reciprocal", "rsqrt", "pow", "prod", "linalg_vector_norm", "sum", "norm"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.OPS:
            args = [arg.float() if isinstance(arg, Tensor) and arg.element_size() == 2 else arg for arg in args]
        return func(*args, **(kwargs or {}))


def variants() -> list[Scheme]:
    """Return every registered scheme once for each of its part sets, with its other options at their defaults."""
    classes = [SCHEMES.get(name) for name in SCHEMES]
    return [cls(**options) for cls in classes for options in cls.variants.values()]


def variant_id(scheme: Scheme) -> str:
    """Return a name for a parametrized test: the scheme with its parts."""
    return f"{scheme.name}[{'-'.join(scheme.parts)}]"


def label(value: object) -> str | None:
    """Return what a value is called in the name of a parametrized test; nothing where pytest knows best."""
    if isinstance(value, Scheme):
        return variant_id(value)
    return str(value)[6:] if isinstance(value, torch.dtype) else None


def trained(scheme: Scheme) -> tuple[str, ...]:
    """Return the names of the parts that get gradients, the shared ones last."""
    return tuple(part for part in (*scheme.parts, *scheme.shared) if part not in scheme.state)


def split_all(
    scheme: Scheme, weights: Sequence[Tensor], kept: tuple[int, ...] = (0,)
) -> tuple[list[dict[str, Tensor]], list[WeightSpec]]:
    """Split the weights of one network; each dict has the shared parts too."""
    specs = [WeightSpec.of(weight, kept) for weight in weights]
    own = [scheme.split(weight, spec) for weight, spec in zip(weights, specs, strict=True)]
    shared = scheme.split_shared(own, specs)
    return [{**parts, **shared} for parts in own], specs


def compose_all(scheme: Scheme, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> list[Tensor]:
    """Compose the weights of one network."""
    gathered = scheme.gather(parts, specs)
    return [scheme.compose({**own, **gathered}, spec) for own, spec in zip(parts, specs, strict=True)]


def fold(scheme: Scheme, weight: Tensor, kept: tuple[int, ...] = (0,)) -> Tensor:
    """Split one weight and compose it again."""
    return compose_all(scheme, *split_all(scheme, [weight], kept))[0]


def traced(function: Callable[[Any], Any], parts: Sequence[Parts]) -> GraphModule:
    """Run ``function`` on proxies instead of ``parts``, and return the graph it makes; equal tensors become one."""
    root, graph, proxies = nn.Module(), Graph(), {}
    tracer = GraphAppendingTracer(graph)

    def proxy(part: str, tensor: Tensor) -> Proxy:
        if id(tensor) not in proxies:
            name = f"{part}_{len(proxies)}"
            root.register_buffer(name, tensor)
            proxies[id(tensor)] = Proxy(graph.get_attr(name), tracer)
        return proxies[id(tensor)]

    results = function([{part: proxy(part, tensor) for part, tensor in own.items()} for own in parts])
    graph.output(map_aggregate(results, lambda x: x.node if isinstance(x, Proxy) else x))
    graph.lint()
    return GraphModule(root, graph)


def with_gradients(parts: Sequence[Parts], names: Sequence[str]) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Return ``parts`` with leaves that require gradients under ``names``, and those leaves, each tensor once."""
    leaves: dict[int, Tensor] = {}

    def leaf(tensor: Tensor) -> Tensor:
        return leaves.setdefault(id(tensor), tensor.detach().clone().requires_grad_())

    return [{part: leaf(tensor) if part in names else tensor for part, tensor in own.items()} for own in parts], list(
        leaves.values()
    )


def evaluate_formula(scheme: Scheme, parts: Parts, spec: WeightSpec, every: Mapping[str, Tensor]) -> Tensor:
    """Compute a weight from `Scheme.formula` as it is printed, with elementary operations.

    Args:
        scheme: the scheme; its options may be used in the formula.
        parts: the parts of the weight.
        spec: the spec of the weight.
        every: for each part, all weights' tensors in one vector; in the formula its name begins with ``every_``.
    """

    def over(x: Tensor) -> tuple[int, ...]:
        return tuple(spec.dims) if tuple(x.shape) == spec.shape else tuple(range(x.dim()))

    def total(x: Tensor) -> Tensor:
        keep = tuple(x.shape) == spec.shape and bool(spec.kept)
        return x.sum(over(x), keepdim=keep) if over(x) else x

    def mean(x: Tensor) -> Tensor:
        return total(x) / spec.fan_in

    rows = torch.movedim(parts[scheme.direction], spec.kept, tuple(range(len(spec.kept))))
    names = {
        "mean": mean,
        "var": lambda x: mean((x - mean(x)) ** 2),
        "norm": lambda x: total(x**2).sqrt(),
        "vector_norm": lambda x, p, _: total(x.abs() ** p) ** (1 / p),
        "sqrt": lambda x: torch.as_tensor(x, dtype=torch.float64).sqrt(),
        "max": lambda x, low: torch.where(x > low, x, low),
        "dims": spec.dims,
        "fan_in": spec.fan_in,
        "W": rows.reshape(-1, spec.fan_in),
        # parts that a variant lacks
        "gain": 1.0,
        "shift": 0.0,
        **{f"every_{part}": tensor for part, tensor in every.items()},
        **{option: getattr(scheme, option) for option in scheme.__dataclass_fields__ if option not in parts},
        **parts,
    }
    if "s" in parts:
        names["g"] = parts["s"].exp()
    if "shift" not in parts:
        names["shift"] = 0.0
    return eval(scheme.formula.partition("=")[2], {"__builtins__": {}}, names)


def nodes_of(graph_module: GraphModule) -> list[Node]:
    """Return the nodes that compute something."""
    return [node for node in graph_module.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
