"""Weight normalization: the length of each weight vector is a parameter of its own.

    w = g * v / ||v||

Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868. ``p`` chooses the norm; ``log_g`` stores ``s`` with
``g = exp(s)``, as section 2.2 of the paper proposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch, torch_private
from wnconvert.scheme import ONLY_GRADIENTS, Parts, Scheme, WeightSpec, register
from wnconvert.schemes._norms import largest, norm, repaired, rounded, times_power_of_two, usable

#: the least norm that has a logarithm in ``s``: the least number in float16
_LEAST = 2.0**-24


@register
@dataclass(frozen=True)
class WeightNorm(Scheme):
    """Weight normalization, ``w = g * v / norm(v, p)``.

    Parts are ``g`` (kept shape) and ``v`` (the weight's shape), or ``s`` and ``v`` with ``log_g``. With ``p=2`` in
    float32 and float64 the composed bits are those of `torch.nn.utils.parametrizations.weight_norm`.

    Attributes:
        p: order of the norm: 1, 2 or inf.
        log_g: store ``s = log(g)``. A norm below 2**-24, the least number in float16, then counts as 2**-24, so that a
            channel of zeros stays finite.
        written_out: compose by plain operators (``linalg.vector_norm``, a quotient, a product) instead of
            ``torch._weight_norm``, which is faster. For what does not know that function: graphs of torch.export that
            are not decomposed, compilers and runtimes with operators of their own (XLA, ONNX), rules of sharding. And
            where a gradient with respect to parameters is differentiated again, as by a Hessian or by MAML: its kernel
            takes norms for constants there, and gives wrong second derivatives with respect to ``v``.
    """

    p: float = 2.0
    log_g: bool = False
    written_out: bool = field(default=False, metadata=ONLY_GRADIENTS)

    name = "weight_norm"
    variants = {("g", "v"): {"log_g": False}, ("s", "v"): {"log_g": True}}
    former = MappingProxyType({"twice_differentiable": "written_out"})
    direction = "v"
    multiplies = True
    magnitude = "g"
    proportional = ("g",)
    formula = "w = g * v / vector_norm(v, p, dims)"
    reference = "https://arxiv.org/abs/1602.07868"

    def __post_init__(self) -> None:
        if self.p not in (1.0, 2.0, float("inf")):
            raise OptionError(f"option weight_norm.p is {self.p!r}; it must be 1, 2 or inf")

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return ``g`` (or ``s``) and ``v``; a channel whose norm is zero or overflows gets a rescaled ``v``."""
        v = weight.clone()
        if self.log_g:
            return {"s": self._log_norm(v, spec), "v": v}
        g = self._norm(v, spec)
        if not usable(g):
            v, exponent = repaired(v, spec)
            length = self._norm(v, spec)
            zero = largest(weight, spec) == 0
            g = torch.where(zero, torch.zeros_like(length), times_power_of_two(length, exponent))
        return {"g": g, "v": v}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return ``v * (g / norm(v))``: the ratio is exactly 1 where ``g`` is that same norm."""
        v = parts["v"]
        if self.log_g:
            # exp(s) seldom hits a given norm exactly; exp(s - log(norm)) is exactly 1 where s is that same log
            weight = v * rounded(torch.exp(parts["s"] - self._log_norm(v, spec)), v, spec)
        elif self._fused(spec):
            weight = torch_private.weight_norm(v, parts["g"], _torch_dim(spec))
        else:
            weight = v * (parts["g"] / self._norm(v, spec))
        return spec.laid_out(weight, v)

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the norms of ``v``, and with ``log_g`` 1 where the least norm takes their place."""
        length = norm(parts["v"], spec, self.p)
        return torch.where(length < _LEAST, torch.ones_like(length), length) if self.log_g else length

    def scaled(self, parts: Parts, factor: Tensor) -> dict[str, Tensor]:
        """Return ``g`` times the factor, or ``s`` plus its logarithm."""
        return {"s": parts["s"] + torch.log(factor)} if self.log_g else super().scaled(parts, factor)

    def channelwise(self, spec: WeightSpec) -> bool:
        """Whether it is the first dim that is kept: torch's kernel for that works row by row."""
        return self._fused(spec) and spec.kept == (0,)

    def unusable(self, weight: Tensor, spec: WeightSpec) -> Tensor:
        """Return which channels have a norm that is zero or not finite."""
        length = self._norm(weight, spec).flatten()
        return ~((length > 0) & (length < float("inf")))

    def has_second_derivatives(self, spec: WeightSpec) -> bool:
        """Whether it is not torch's kernel that composes the weight: this is wrong when differentiated twice."""
        return not (self._fused(spec) and has_kernel(_torch_dim(spec), len(spec.shape)))

    def infer_kept(self, parts: Parts, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the kept dims that the shape of ``g`` or ``s`` shows."""
        return super().infer_kept({"g": parts["s"], **parts} if self.log_g else parts, default)

    def _norm(self, v: Tensor, spec: WeightSpec) -> Tensor:
        if not self._fused(spec):
            return norm(v, spec, self.p)
        dim = _torch_dim(spec)
        if has_kernel(dim, len(spec.shape)):
            # the kernel's own norms: those of norm_except_dim may differ in the last bit
            return torch_private.weight_norm_with_norms(v, v.new_ones(spec.kept_shape), dim)[1]
        return torch.norm_except_dim(v, 2, dim)

    def _log_norm(self, v: Tensor, spec: WeightSpec) -> Tensor:
        return rounded(torch.log(torch.clamp(norm(v, spec, self.p), min=_LEAST)), v, spec)

    def _fused(self, spec: WeightSpec) -> bool:
        """Whether torch's own function gives exact bits: it rounds in half precision and forgets memory formats."""
        if self.written_out or self.p != 2 or self.log_g or len(spec.kept) > 1 or len(spec.shape) < 2:
            return False
        return spec.contiguous and not spec.half


def has_kernel(dim: int, ndim: int) -> bool:
    """Whether torch's weight norm has a kernel for a kept dim, as torch spells it: for others it is a formula."""
    return dim in (0, ndim - 1)


def _torch_dim(spec: WeightSpec) -> int:
    """The kept dim as torch spells it: -1 is the whole tensor."""
    return spec.kept[0] if spec.kept else -1
