"""Small pieces that several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """GroupNorm that is exact for `channels_last` tensors on the CPU too.

    There, PyTorch's kernel sums up values and squares one after the other and takes the variance as a mean of squares
    less a squared mean. Where a group's mean is large and its spread small, as in the features of a near-silent stem,
    no digit of that difference is right. Here the mean is taken out first, and `mean` sums in pairs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, ...)."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or x.is_contiguous():
            return super().forward(x)
        positions = tuple(range(2, x.dim()))
        centred = x - self._mean_of_groups(x.mean(positions, keepdim=True))
        variance = self._mean_of_groups(centred.square().mean(positions, keepdim=True))
        weight, bias = (parameter.reshape(-1, *(1 for _ in positions)) for parameter in (self.weight, self.bias))
        out = None if torch.is_grad_enabled() else centred
        return torch.addcmul(bias, centred, weight * (variance + self.eps).rsqrt(), out=out)

    def _mean_of_groups(self, x: Tensor) -> Tensor:
        """The mean of each group's channels, for each of its channels: (B, channels, 1, ...), as `x`."""
        groups = x.unflatten(1, (self.num_groups, -1))
        return groups.mean(2, keepdim=True).expand_as(groups).flatten(1, 2)


def group_norm(channels: int, groups: int, eps: float) -> GroupNorm:
    """GroupNorm over `channels` with `groups` groups, or the most that divide both `groups` and `channels`."""
    return GroupNorm(math.gcd(groups, channels), channels, eps=eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Start a layer at zero, so that the block around it starts as its skip connection; returns it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def silu(x: Tensor) -> Tensor:
    """SiLU of what nobody else needs any more: without gradients it is put in its place, which spares new memory."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
