"""Small pieces that several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int, groups: int, eps: float) -> nn.GroupNorm:
    """GroupNorm over `channels` with `groups` groups, or the most that divide both `groups` and `channels`."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Start a layer at zero, so that the block around it starts as its skip connection; returns it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def silu(x: Tensor) -> Tensor:
    """SiLU of what nobody else needs any more: without gradients it is put in its place, which spares new memory."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
