"""Mean-only batch norm: activations without the mean of their mini-batch, and with a bias.

    y = t - mean(t) + bias

Salimans & Kingma 2016, section 4, https://arxiv.org/abs/1602.07868: the companion of weight normalization, which sets
the scale already. In evaluation the mean is a running one.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError, WnconvertWarning


class MeanOnlyBatchNorm(nn.Module):
    """Subtracts the mean of the mini-batch from each channel, and adds a bias; for any number of dims.

    In evaluation it adds one number to each channel, ``bias - running_mean``, so a layer before it takes that in as its
    bias: `wnconvert.fuse` moves it there. The state dict has ``bias`` and ``running_mean``, as those of torch's batch
    norms. One value a channel is its own mean, so that nothing of it is left: that is a `WnconvertWarning` in training.

    Args:
        num_features: how many channels.
        momentum: what share of the running mean is that of the last batch.
        dim: the dim of the channels; -1 behind a linear layer with more than two dims.
        device: of bias and running mean.
        dtype: of both.

    Raises:
        OptionError: a momentum that is not between 0 and 1, or channels or a dim that are no whole numbers.
    """

    running_mean: Tensor

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        *,
        dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1:
            raise OptionError(f"momentum is {momentum!r}; it must be a number from 0 to 1")
        if not isinstance(num_features, int) or num_features < 0:
            raise OptionError(f"num_features is {num_features!r}; it must be a whole number of channels")
        if not isinstance(dim, int):
            raise OptionError(f"dim is {dim!r}; it must be a whole number, 1 or -1 in most models")
        self.num_features, self.momentum, self.dim = num_features, momentum, dim
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Return the input without the mean of each channel, plus ``bias``.

        Raises:
            OptionError: the input has another number of channels.
        """
        if not -input.dim() <= self.dim < input.dim() or input.shape[self.dim] != self.num_features:
            raise OptionError(
                f"input of shape {tuple(input.shape)} has not {self.num_features} channels in dim {self.dim}"
            )
        shape = [1] * input.dim()
        shape[self.dim] = -1
        shift = self._shift(input) if self.training else self.shift()
        return input + shift.to(input.dtype).reshape(shape)  # autocast gives a layer before it another dtype

    def shift(self) -> Tensor:
        """Return what is added in evaluation, ``bias - running_mean``, of shape (channels,)."""
        return self.bias - self.running_mean

    def extra_repr(self) -> str:
        """Return its arguments, for ``print``."""
        return f"{self.num_features}, momentum={self.momentum}, dim={self.dim}"

    def _shift(self, input: Tensor) -> Tensor:
        if not input.numel():
            return self.bias  # a batch of nothing has no mean
        kept = self.dim % input.dim()
        others = [dim for dim in range(input.dim()) if dim != kept]
        if input.numel() == self.num_features and not torch.compiler.is_compiling():
            warnings.warn(
                f"training on an input of shape {tuple(input.shape)}, which has one value a channel: without its mean "
                "nothing is left of it; give larger batches, or put it into eval()",
                WnconvertWarning,
                stacklevel=3,
            )
        mean: Any = input.mean(others) if others else input
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        return self.bias - mean
