"""Small pieces that several networks share."""

from __future__ import annotations

import math

from torch import nn


def group_norm(channels: int, groups: int, eps: float) -> nn.GroupNorm:
    """GroupNorm over `channels` with `groups` groups, or the most that divide both `groups` and `channels`."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Start a layer at zero, so that the block around it starts as its skip connection; returns it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
