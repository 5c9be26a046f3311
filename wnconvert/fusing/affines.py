"""Calls that end in an affine map with constants: batch norms, the gains of other norms, products and sums."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy

from wnconvert.fusion import FUSIONS, Affine
from wnconvert.graph.calls import argument
from wnconvert.graph.constants import Evaluator, ImpureError, ancestors, constant_nodes
from wnconvert.graph.entries import join, locate, own_tensors
from wnconvert.mean_only_batch_norm import MeanOnlyBatchNorm
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import (
    ATEN_BATCH_NORM_NO_TRAINING,
    ATEN_FUSED_RMS_NORM,
    CALL_HOOKS,
    is_batch_norm,
    parameters_of,
)

aten = torch.ops.aten

#: the first dim after that of the batch, where batch norms have their channels; it counts from the front
SECOND = 1


@dataclass(frozen=True)
class AffineCall:
    """One call that ends in an affine map.

    Attributes:
        node: the call.
        input: what it reads.
        fusion: name of the fusion.
        fqn: what reports call it: its module, or the first tensor that it reads.
        affine: the map; without scale and shift where ``reason`` is given.
        dim: the dim that indexes channels, negative if it counts from the last; None where all channels are alike.
        results: the nodes that have its value; itself, or what takes the first of several.
        gain: for a normalization that stays without its gain: the arguments that hold it, by index and keyword; or
            ``()`` where a module has it as its parameters. None where nothing stays.
        tensors: dotted names of the tensors that it reads, or that its module has.
        dtype: the dtype that it may promote its input to; None where it keeps the input's.
        rank: how many dims its constant has, which are those of its result where its input has fewer.
        in_place: whether it changes its input.
        reason: why it has no constants, if it has none.
    """

    node: Node
    input: Node
    fusion: str
    fqn: str
    affine: Affine = field(default_factory=Affine)
    dim: int | None = None
    results: tuple[Node, ...] = ()
    gain: tuple[tuple[int, str], ...] | None = None
    tensors: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    rank: int = 0
    in_place: bool = False
    reason: Reason | None = None


@dataclass
class Affines:
    """Reads the affine calls of a graph.

    Args:
        graph_module: the graph.
    """

    graph_module: GraphModule
    _constants: set[Node] = field(init=False)
    _evaluator: Evaluator = field(init=False)

    def __post_init__(self) -> None:
        self._constants = constant_nodes(self.graph_module.graph)
        self._evaluator = Evaluator(self.graph_module)

    def __iter__(self) -> Iterator[AffineCall]:
        for node in self.graph_module.graph.nodes:
            if node not in self._constants and (call := self.of(node)) is not None:
                yield call

    def of(self, node: Node) -> AffineCall | None:
        """Return what a node is, or None if it ends in no affine map."""
        if node.op == "call_module":
            return self._of_module(node, locate(self.graph_module, str(node.target)))
        if node.op == "call_function" and (facts := _NORMS.get(node.target)):
            return self._of_norm(node, facts)
        if node.op in ("call_function", "call_method") and (kind := _ELEMENTWISE.get(node.target)):
            return self._of_elementwise(node, kind)
        return None

    def _of_module(self, node: Node, module: Any) -> AffineCall | None:
        value, fqn = node.args[0] if node.args else node.kwargs.get("input"), str(node.target)
        if not isinstance(value, Node):
            return None
        if any(is_lazy(tensor) for _, tensor in own_tensors(module)):
            return None
        own = {name: tensor.detach() for name, tensor in own_tensors(module)}
        named: dict[str, Any] = {"tensors": tuple(join(fqn, name) for name in own), "results": (node,)}
        gain = type(module) in (nn.LayerNorm, nn.RMSNorm) and parameters_of(module).get("weight") is not None
        if (gain or is_batch_norm(module)) and any(getattr(module, hooks) for hooks in CALL_HOOKS):
            return AffineCall(node, value, "gain" if gain else "batch_norm", fqn, reason=Why.MODULE_HOOKS())
        if is_batch_norm(module) and is_plain_batch_norm(module):
            if reason := _batch_statistics(module):
                return AffineCall(node, value, "batch_norm", fqn, reason=reason)
            affine = FUSIONS.get("batch_norm")().affine(own, module.eps)
            return AffineCall(node, value, "batch_norm", fqn, affine, _channel_of(module), **named)
        if isinstance(module, MeanOnlyBatchNorm):
            return _of_mean_only(node, value, module, **named)
        if gain:
            shape = module.normalized_shape
            return self._gain(node, value, fqn, own, len(shape), gain=(), **named)
        return None

    def _of_norm(self, node: Node, facts: _Norm) -> AffineCall | None:
        value = node.args[0] if node.args else node.kwargs.get("input")
        results: tuple[Node, ...] = (node,)
        given: dict[str, Any] = {name: argument(node, index, name) for name, index in facts.places.items()}
        reads = (each for node in given.values() if isinstance(node, Node) for each in ancestors(node))
        names = tuple(dict.fromkeys(str(each.target) for each in reads if each.op == "get_attr"))
        if not isinstance(value, Node):
            return None
        fqn = next(iter(names), node.name).rpartition(".")[0] or node.name
        if facts.several:
            # a program that was loaded takes out what it does not use, too
            results = tuple(user for user in node.users if user.args[1:] == (0,) or not user.users)
            if len(results) != len(node.users):
                return AffineCall(node, value, facts.fusion, fqn, reason=Why.USED_ELSEWHERE(what="a statistic of it"))
        own = {}
        for name, each in given.items():
            if isinstance(each, Node):
                tensor = self._value(each)
                if not isinstance(tensor, Tensor):
                    return AffineCall(node, value, facts.fusion, fqn, reason=tensor or Why.NOT_CONSTANT(what=name))
                own[name] = tensor
        named: dict[str, Any] = {"tensors": names, "results": results}
        if facts.fusion == "batch_norm":
            training = facts.training is not None and argument(node, facts.training, "training", False)
            if training is not False or "running_mean" not in own or "running_var" not in own:
                return AffineCall(node, value, "batch_norm", fqn, reason=Why.BATCH_STATISTICS(how="in this graph"))
            affine = FUSIONS.get("batch_norm")().affine(own, argument(node, facts.eps, "eps", 1e-5))
            return AffineCall(node, value, "batch_norm", fqn, affine, SECOND, **named)
        if not own:
            return None
        shape = argument(node, 1, "normalized_shape")
        gain = tuple((index, name) for name, index in facts.places.items() if name in own)
        return self._gain(node, value, fqn, own, len(shape), gain=gain, **named)

    @staticmethod
    def _gain(node: Node, value: Node, fqn: str, own: Mapping[str, Tensor], dims: int, **named: Any) -> AffineCall:
        if dims != 1:
            return AffineCall(node, value, "gain", fqn, reason=Why.SEVERAL_DIMS(dims=dims))
        return AffineCall(node, value, "gain", fqn, FUSIONS.get("gain")().affine(own, 0.0), -1, **named)

    def _of_elementwise(self, node: Node, kind: str) -> AffineCall | None:
        """Read a product or sum with a constant."""
        if len(node.args) != 2 or node.kwargs:
            return None
        first, second = node.args
        if self._is_constant(first) and kind in ("mul", "add"):
            first, second = second, first
        if not isinstance(first, Node) or not self._is_constant(second) or first in self._constants:
            return None
        value = self._value(second) if isinstance(second, Node) else torch.tensor(second, dtype=torch.float64)
        if not isinstance(value, Tensor) or not value.is_floating_point() or (by_channel := _by_channel(value)) is None:
            return None
        reads = [each for each in ancestors(second) if each.op == "get_attr"] if isinstance(second, Node) else []
        constant, dim = by_channel
        if kind in ("div", "sub"):
            constant = constant.double().reciprocal() if kind == "div" else -constant
        tensors = tuple(str(each.target) for each in reads)
        affine = FUSIONS.get("gain")().affine({"bias" if kind in ("add", "sub") else "weight": constant}, 0.0)
        fqn = tensors[0] if tensors else node.name
        dtype = value.dtype if value.dim() else None
        facts: dict[str, Any] = {"tensors": tensors, "dtype": dtype, "rank": value.dim()}
        facts["in_place"] = node.target in _IN_PLACE
        return AffineCall(node, first, "gain", fqn, affine, dim, (node,), **facts)

    def _is_constant(self, value: Any) -> bool:
        return value in self._constants if isinstance(value, Node) else type(value) in (int, float)

    def _value(self, node: Node) -> Tensor | Reason | None:
        """Return the value of a constant node, why it has none, or None if it is not constant."""
        if node not in self._constants:
            return None
        if node.op == "get_attr":
            value = locate(self.graph_module, str(node.target))
            return value.detach() if isinstance(value, Tensor) else None
        try:
            return self._evaluator.computed(node, ancestors(node)).detach().clone()
        except ImpureError as error:
            return error.reason
        except Exception:  # noqa: BLE001 (the model's own code)
            return None


def _by_channel(value: Tensor) -> tuple[Tensor, int | None] | None:
    """Return a tensor as one value a channel and the dim of these, counted from the last; None if it varies in two."""
    wide = [dim for dim, size in enumerate(value.shape) if size != 1]
    if len(wide) > 1:
        return None
    return (value.reshape(-1), wide[0] - value.dim()) if wide else (value.reshape(()), None)


def _of_mean_only(node: Node, value: Node, module: MeanOnlyBatchNorm, **named: Any) -> AffineCall:
    """Read a mean-only batch norm: in evaluation it adds a constant."""
    fqn = str(node.target)
    reason = Why.BATCH_STATISTICS(how="in training mode; call eval() first") if module.training else None
    reason = Why.MODULE_HOOKS() if any(getattr(module, hooks) for hooks in CALL_HOOKS) else reason
    if reason is not None:
        return AffineCall(node, value, "gain", fqn, reason=reason)
    shift = {"bias": module.bias.detach().double() - module.running_mean.double()}
    return AffineCall(node, value, "gain", fqn, FUSIONS.get("gain")().affine(shift, 0.0), module.dim, **named)


def is_plain_batch_norm(module: nn.Module) -> bool:
    """Return whether a batch norm does, in its forward, what torch's do; timm's go on with what `rest_of` gives."""
    known = (nn.BatchNorm1d.forward, nn.SyncBatchNorm.forward)
    return type(module).forward in known or bool(rest_of(module))


def rest_of(module: nn.Module) -> list[str]:
    """Return the names of the modules that a batch norm of timm calls after it has normalized."""
    timm = sys.modules.get("timm.layers.norm_act")
    kinds = tuple(getattr(timm, name) for name in ("BatchNormAct2d", "SyncBatchNormAct") if hasattr(timm, name))
    if not kinds or not isinstance(module, kinds) or type(module).forward not in [kind.forward for kind in kinds]:
        return []
    return ["drop", "act"]


def _batch_statistics(module: Any) -> Reason | None:
    if module.training:
        return Why.BATCH_STATISTICS(how="in training mode; call eval() first")
    if module.running_mean is None or module.running_var is None:
        return Why.BATCH_STATISTICS(how="always, for it keeps none")
    return None


def _channel_of(module: nn.Module) -> int:
    """Return the dim of the channels of a batch norm: from the last, where its class says how many there are."""
    ranks = {nn.BatchNorm2d: -3, nn.BatchNorm3d: -4}
    return next((dim for kind, dim in ranks.items() if isinstance(module, kind)), SECOND)


@dataclass(frozen=True)
class _Norm:
    """A function that normalizes: where its tensors are among its arguments."""

    fusion: str
    places: Mapping[str, int]
    eps: int = 0
    training: int | None = None
    several: bool = False


_PYTHON_BATCH_NORM = {"running_mean": 1, "running_var": 2, "weight": 3, "bias": 4}
_ATEN_BATCH_NORM = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}
_LAYER_NORM, _RMS_NORM = {"weight": 2, "bias": 3}, {"weight": 2}
_NORMS: dict[Any, _Norm] = {
    F.batch_norm: _Norm("batch_norm", _PYTHON_BATCH_NORM, 7, 5),
    **dict.fromkeys((torch.batch_norm, aten.batch_norm.default), _Norm("batch_norm", _ATEN_BATCH_NORM, 7, 5)),
    ATEN_BATCH_NORM_NO_TRAINING: _Norm("batch_norm", _ATEN_BATCH_NORM, 6, several=True),
    **dict.fromkeys((F.layer_norm, torch.layer_norm, aten.layer_norm.default), _Norm("gain", _LAYER_NORM)),
    aten.native_layer_norm.default: _Norm("gain", _LAYER_NORM, several=True),
    **dict.fromkeys((F.rms_norm, torch.rms_norm, aten.rms_norm.default), _Norm("gain", _RMS_NORM)),
    ATEN_FUSED_RMS_NORM: _Norm("gain", _RMS_NORM, several=True),
}

_ELEMENTWISE: dict[Any, str] = {
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul", "multiply", aten.mul.Tensor), "mul"),
    **dict.fromkeys((operator.truediv, torch.div, torch.true_divide, "div", aten.div.Tensor), "div"),
    **dict.fromkeys((operator.add, torch.add, "add", aten.add.Tensor), "add"),
    **dict.fromkeys((operator.sub, torch.sub, "sub", aten.sub.Tensor), "sub"),
    **dict.fromkeys((aten.mul.Scalar, "mul_", aten.mul_.Tensor), "mul"),
}
_IN_PLACE = ("mul_", aten.mul_.Tensor)
