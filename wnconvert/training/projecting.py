"""Directions of unit length again after each step, where the length does not matter to the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import NothingToConvertError
from wnconvert.fitness import is_distributed
from wnconvert.training.composed import Composed, CurrentWeights, composed_weights
from wnconvert.verification import same_bits


class Projection:
    """Gives the directions of a model's composed weights the length at which their norm is one; called after a step.

    A direction that is divided by its norm has a gradient at right angles to it, so every step makes it longer, and
    the next ones smaller: the effective learning rate ``lr / norm(v)**2`` decays by itself (Salimans & Kingma 2016,
    section 2.1, https://arxiv.org/abs/1602.07868). After a projection it is ``lr`` again. That is the forced weight
    normalization of Karras et al. 2024 (https://arxiv.org/abs/2312.02696) and the unit rows of nGPT (Loshchilov et
    al. 2024, https://arxiv.org/abs/2410.01131).

        optimizer.register_step_post_hook(Projection(model))

    The weights themselves stay: to the bit with ``exact``, to a rounding without, and magnitude-preserving ones, which
    add ``eps`` to the norm, to about ``eps``. What an optimizer remembers of the directions, such as a
    momentum, is not changed. Parameters are looked up each time: the model may be cast, moved, sharded or loaded
    after it was made. Each process of a distributed run makes the same projection of what it holds.

    Attributes:
        weights: what is projected, as it is now: directions of weight norm, unit norm, centered weight norm,
            magnitude-preserving weights, spectral norm and sigma reparametrization. One that is also a plain weight
            of the model, or is composed in two ways, is left alone.
    """

    def __init__(self, model: nn.Module, *, exact: bool = False) -> None:
        """Find the directions.

        Args:
            model: a converted model, or one with torch's own weight or spectral norm.
            exact: divide by powers of two alone, which leave lengths between 1 and 2 and every bit of the weights;
                where they do not, as with ``log_g``, the direction is left alone.

        Raises:
            KindError: it is no module.
            NothingToConvertError: it has no such weight.
        """
        self.exact = exact
        found = (weight for weight in composed_weights(model) if weight.alone and _length(weight) is not None)
        self._current = CurrentWeights(model, [weight for weight in found if not exact or _keeps_bits(weight)])
        if not self.weights:
            raise NothingToConvertError(
                f"{type(model).__name__!r} has no composed weight whose direction has a length of its own; "
                "wnconvert.apply makes some"
            )

    @property
    def weights(self) -> list[Composed]:
        """What is projected, as it is now."""
        return self._current.now()

    @torch.no_grad()
    def __call__(self, *_: Any) -> None:
        """Project; the arguments are those of an optimizer's hook, and not looked at."""
        for weight in self.weights:
            length = _length(weight)
            assert length is not None, "schemes have a length or none"
            usable = torch.isfinite(length) & (length > 0)
            length = torch.where(usable, length, torch.ones_like(length))
            weight.direction.div_(_power_of_two(length) if self.exact else length)


def project_(model: nn.Module, *, exact: bool = False) -> None:
    """Project once, as `Projection` does: ``Projection(model, exact=exact)()``."""
    Projection(model, exact=exact)()


@torch.no_grad()
def _length(weight: Composed) -> Tensor | None:
    parts = dict(weight.parts)
    direction: Any = weight.direction
    if weight.scheme.state and is_distributed(direction):  # of the state every process has all
        parts[weight.scheme.direction] = direction.full_tensor()
    return weight.scheme.divisor(parts, weight.spec)


@torch.no_grad()
def _keeps_bits(weight: Composed) -> bool:
    halved = {**weight.parts, weight.scheme.direction: weight.direction / 2}
    one, other = (weight.scheme.compose(parts, weight.spec) for parts in (weight.parts, halved))
    return same_bits(one, other)


def _power_of_two(length: Tensor) -> Tensor:
    """Return the largest power of two that is not above ``length``."""
    return torch.ldexp(torch.ones_like(length), torch.frexp(length).exponent - 1)
