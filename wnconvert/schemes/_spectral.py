"""What the schemes by the largest singular value have in common: the estimate of it, and the power iteration.

A weight is seen as the matrix ``W`` whose rows are the kept dims and whose columns are the reduced ones. Products are
written as elementwise ones and sums: autocast, which lowers the precision of ``matmul`` and its kin, leaves them alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, magnitude_shape
from wnconvert.schemes._closed import ClosedScheme
from wnconvert.schemes._eager import is_seen_nonzero
from wnconvert.schemes._norms import rounded

#: steps at split time, at most, and the residual of the singular vectors at which they end, as a share of sigma
_MOST_STEPS = 100
_RESIDUAL = 1e-6
#: the residual with which the first singular value has four digits.
_ROUGH = 1e-3
#: matrices with so few rows or columns are decomposed as a whole.
_NARROW = 64
#: elements between which squares neither overflow nor vanish in float32, however many there are.
_TAME = (1e-12, 1e12)


@dataclass(frozen=True)
class SpectralScheme(ClosedScheme):
    """A scheme with the parts ``orig``, ``u`` and ``v``, where ``u`` and ``v`` follow the first singular vectors."""

    power_iterations: int = 1
    eps: float = 1e-12

    positive = ("eps",)
    direction = "orig"
    multiplies = True
    state = frozenset({"u", "v"})
    default_dim = "output"

    def __post_init__(self) -> None:
        if not isinstance(self.power_iterations, int) or self.power_iterations < 0:
            value = self.power_iterations
            raise OptionError(f"option {self.name}.power_iterations is {value!r}; it must be a whole number from 0 up")
        super().__post_init__()

    @property
    def dynamic(self) -> bool:
        """Whether a training forward changes ``u`` and ``v``."""
        return self.power_iterations > 0

    def update(self, parts: Parts, spec: WeightSpec) -> dict[str, Tensor]:
        """Return ``u`` and ``v`` after the power iterations of one training forward, in torch's order."""
        w, u, v = matrix(parts["orig"].detach(), spec), parts["u"], parts["v"]
        return self.iterated(w, u, v, image(w, v, spec), spec) if self.dynamic else {}

    def iterated(self, w: Tensor, u: Tensor, v: Tensor, wv: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return ``u`` and ``v`` after the power iterations; ``wv`` is the image of ``v``."""
        for step in range(self.power_iterations):
            u, v = power_iteration(w, u, v, wv if step == 0 else image(w, v, spec), spec, self.eps)
        return {"u": u, "v": v}

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return sigma."""
        return (sigma(parts["orig"], parts["u"], parts["v"], spec),)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradients: sigma has the derivative ``u v^T``, and none where it would be 0."""
        orig, (length,) = parts["orig"], statistics
        along = _inner(gradient, orig) / length
        if "orig" not in wanted:
            return {"gamma": along}
        ratio = parts["gamma"] / length if "gamma" in parts else 1 / length
        rows = torch.reshape(parts["u"], spec.kept_shape) * (ratio * -along)
        columns = torch.reshape(parts["v"], magnitude_shape(spec.shape, spec.dims))
        return {"gamma": along, "orig": (rows * columns).addcmul_(gradient, ratio)}

    def has_gradients(self, parts: Parts, spec: WeightSpec) -> bool:
        """Whether no vector is trained; any other weight will do."""
        return not (parts["u"].requires_grad or parts["v"].requires_grad)

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return sigma."""
        return sigma(parts["orig"], parts["u"], parts["v"], spec)

    def infer_kept(self, parts: Parts, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the kept dims that fit the lengths of ``u`` and ``v``, and where several do, their values.

        With the right dims ``W v`` points along ``u``, because the stored vectors are results of the iteration. In a
        file that was never trained they may be anything; then the default stands.
        """
        orig, u, v = (parts[part].detach() for part in ("orig", "u", "v"))
        candidates = dict.fromkeys([default, *((dim,) for dim in range(orig.dim())), ()])
        specs = [WeightSpec.of(orig, kept) for kept in candidates]
        specs = [spec for spec in specs if (spec.rows, spec.fan_in) == (u.numel(), v.numel())]
        if len(specs) < 2 or orig.is_meta:
            return specs[0].kept if specs else default
        residuals = [_residual(orig, u, v, spec) for spec in specs]
        best = min(range(len(specs)), key=residuals.__getitem__)
        return specs[best].kept if residuals[best] < residuals[0] / 2 else specs[0].kept


def matrix(weight: Tensor, spec: WeightSpec) -> Tensor:
    """Return ``weight`` as a matrix: the kept dims flattened to rows, the reduced dims to columns."""
    order = (*spec.kept, *spec.dims)
    moved = weight if order == tuple(range(len(order))) else torch.permute(weight, order)
    shape = (spec.rows, spec.fan_in)
    return moved if len(order) == 2 and len(spec.kept) == 1 else torch.reshape(moved, shape)


def sigma(weight: Tensor, u: Tensor, v: Tensor, spec: WeightSpec) -> Tensor:
    """Return ``u^T W v``, or 1 where that is 0, so that a weight of zeros can be divided by it."""
    return sigma_along(u, image(matrix(weight, spec), v, spec), spec)


def sigma_along(u: Tensor, wv: Tensor, spec: WeightSpec) -> Tensor:
    """Return sigma, given the image of ``v``."""
    estimate = _sum(u * wv, 0, spec)
    return estimate if is_seen_nonzero(estimate) else estimate.masked_fill(estimate == 0, 1.0)


def image(w: Tensor, v: Tensor, spec: WeightSpec) -> Tensor:
    """Return ``W v``."""
    return _sum(w * v, 1, spec)


def power_iteration(w: Tensor, u: Tensor, v: Tensor, wv: Tensor, spec: WeightSpec, eps: float) -> tuple[Tensor, Tensor]:
    """Return the next ``u``, then the next ``v``, in the order of `torch.nn.utils.parametrizations.spectral_norm`."""
    u = _direction(wv, u, spec, eps)
    v = _direction(_sum(w * u.unsqueeze(1), 0, spec), v, spec, eps)
    return u, v


def singular_vectors(weight: Tensor, spec: WeightSpec) -> tuple[Tensor, Tensor]:
    """Return the first singular vectors of ``weight``, in its dtype; the same ones every time.

    By the bidiagonalization of Golub & Kahan 1965 (https://doi.org/10.1137/0702016), with its vectors kept orthogonal.
    Where the first singular values are close, as in a matrix of random numbers, sigma is wrong in the third digit
    after 100 power iterations; here it has ten digits after half as many products with the matrix. It starts from
    fixed vectors, not random ones, and runs in float64, which autocast leaves alone.
    """
    if weight.is_meta:
        return weight.new_empty(spec.rows), weight.new_empty(spec.fan_in)
    w = matrix(weight.detach().double(), spec)
    peak = torch.linalg.vector_norm(w, float("inf"))
    if peak == 0:
        return _start(w[:, 0]).to(weight.dtype), _start(w[0]).to(weight.dtype)
    u, v = _first_pair(w / peak)  # whose squares do not overflow
    return u.to(weight.dtype), v.to(weight.dtype)


def largest_singular_value(w: Tensor) -> float:
    """Return the spectral norm of a finite matrix, to four digits at least, in about 20 products with it.

    It is computed in the dtype of the matrix. One that is narrow is left to LAPACK, for which that is less work.
    """
    if not w.numel():
        return 0.0
    if min(w.shape) <= _NARROW:
        return float(torch.linalg.matrix_norm(w, 2))
    peak = float(torch.linalg.vector_norm(w, float("inf")))
    if peak == 0:
        return 0.0
    scale = 1.0 if _TAME[0] < peak < _TAME[1] else peak
    w = w if scale == 1.0 else w / scale
    u, v = _first_pair(w, _ROUGH)
    return float(u @ (w @ v)) * scale


def _first_pair(w: Tensor, tolerance: float = _RESIDUAL) -> tuple[Tensor, Tensor]:
    """Return the first singular vectors of ``w``, which is not zero; the singular value has twice as many digits.

    ``us`` and ``vs`` are orthonormal with ``w @ vs.T = us.T @ band`` and, but for the residual, ``w.T @ us.T = vs.T @
    band.T``: the singular values of ``band`` become those of ``w``, the largest ones first.
    """
    most = min(_MOST_STEPS, *w.shape)
    us, vs, band = w.new_zeros(most, w.shape[0]), w.new_zeros(most, w.shape[1]), w.new_zeros(most, most)
    across = _start(w[:, 0]) @ w
    if not across.any():
        across = w[torch.linalg.vector_norm(w, dim=1).argmax()]
    residual = torch.linalg.vector_norm(across)
    left, right = w.new_ones(1), w.new_ones(1)
    for step in range(most):
        vs[step] = across / residual
        if step:
            band[step - 1, step] = residual
        down = _apart(w @ vs[step], us[:step])
        band[step, step] = length = torch.linalg.vector_norm(down)
        us[step] = down / length.masked_fill(length == 0, 1.0)
        across = _apart(us[step] @ w, vs[: step + 1])
        residual = torch.linalg.vector_norm(across)
        left, values, right = torch.linalg.svd(band[: step + 1, : step + 1])
        if residual * left[step, 0].abs() <= tolerance * values[0]:
            break
    u, v = left[:, 0] @ us[: len(left)], right[0] @ vs[: len(left)]
    return u / torch.linalg.vector_norm(u), v / torch.linalg.vector_norm(v)


def _apart(x: Tensor, others: Tensor) -> Tensor:
    """Return ``x`` without its parts along the orthonormal rows ``others``.

    They are taken off twice: of a matrix with singular values that are nearly one (tall and random, say) little is left
    of ``x``, and the first time leaves as much of them in it, ten times more with each step.
    """
    for _ in range(2):
        x = x - (others @ x) @ others
    return x


def _direction(x: Tensor, fallback: Tensor, spec: WeightSpec, eps: float) -> Tensor:
    """Return ``x`` at unit length as `torch.nn.functional.normalize` does, but ``fallback`` where ``x`` is zero.

    Vectors of zeros would stay zeros for ever, and in float16 ``eps`` is zero too.
    """
    length = rounded(torch.linalg.vector_norm(x), x, spec)
    unit = x / torch.clamp(length, min=eps)
    return unit if is_seen_nonzero(length) else torch.where(length == 0, fallback, unit)


def _start(like: Tensor) -> Tensor:
    """Return a unit vector that is neither close nor orthogonal to the vectors that occur in practice."""
    x = 1.0 + torch.arange(like.numel(), dtype=like.dtype, device=like.device).cos()
    return x / torch.linalg.vector_norm(x)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of ``x * y``."""
    if x.is_contiguous() and y.is_contiguous():
        return torch.dot(x.view(-1), y.view(-1))
    return torch.sum(x * y)


def _sum(x: Tensor, dim: int, spec: WeightSpec) -> Tensor:
    return rounded(torch.sum(x, dim), x, spec)


def _residual(orig: Tensor, u: Tensor, v: Tensor, spec: WeightSpec) -> float:
    image = matrix(orig.double(), spec) @ v.double()
    return float(torch.linalg.vector_norm(torch.nn.functional.normalize(image, dim=0) - u.double()))
