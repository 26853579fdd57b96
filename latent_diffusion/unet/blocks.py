"""The parts of the 3-D U-Net. Attribute names are the published checkpoint's key names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latent_diffusion.layers import group_norm, zero_init
from latent_diffusion.settings import UNetSettings

NORM_EPS = 1e-5


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of the diffusion time, cosines first (Vaswani et al. 2017; Ho et al. 2020).

    Args:
        timesteps: (B,).
        width: even number of sinusoids.

    Returns:
        (B, width), float32.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device))
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv3d:
    """The convolution that all blocks share; a stride halves time and frequency only."""
    return nn.Conv3d(c_in, c_out, 3, stride=(1, stride, stride), padding=1)


class ResBlock(nn.Module):
    """Residual block with the time embedding added between its two convolutions.

    Args:
        c_in, c_out: channels.
        embedding: width of the time embedding.
        s: U-Net settings (dropout, groups, scale-shift).
    """

    def __init__(self, c_in: int, c_out: int, embedding: int, s: UNetSettings):
        super().__init__()
        self.scale_shift = s.use_scale_shift_norm
        self.in_layers = nn.Sequential(group_norm(c_in, s.num_groups, NORM_EPS), nn.SiLU(), conv3x3(c_in, c_out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, c_out * (2 if self.scale_shift else 1)))
        self.out_layers = nn.Sequential(
            group_norm(c_out, s.num_groups, NORM_EPS),
            nn.SiLU(),
            nn.Dropout(s.dropout),
            zero_init(conv3x3(c_out, c_out)),
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv3d(c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, c_in, C, T, F), (B, embedding) -> (B, c_out, C, T, F)."""
        h = self.in_layers(x)
        e = self.emb_layers(embedding)[:, :, None, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the whole (C, T, F) volume as one sequence.

    The qkv channels are grouped by head first, then by query, key and value.
    """

    def __init__(self, channels: int, s: UNetSettings):
        super().__init__()
        self.heads = channels // s.num_head_channels
        self.norm = group_norm(channels, s.num_groups, NORM_EPS)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, C, T, F) -> same."""
        sequence = x.flatten(2)
        qkv = self.qkv(self.norm(sequence))
        # The CPU's fused kernel is several times faster on contiguous heads.
        q, k, v = rearrange(qkv, "b (h three d) n -> three b h n d", h=self.heads, three=3).contiguous()
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b (h d) n")
        return (sequence + self.proj_out(attended)).reshape(x.shape)


class Downsample(nn.Module):
    """Halve time and frequency with a strided convolution; the latent channels keep their size."""

    def __init__(self, channels: int, s: UNetSettings):
        super().__init__()
        self.op = conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, C, T, F) -> (B, c, C, T/2, F/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Double time and frequency: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, s: UNetSettings):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, C, T, F) -> (B, c, C, 2T, 2F)."""
        return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


class BlockSequence(nn.Sequential):
    """A stage of the U-Net; the time embedding goes to the residual blocks in it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding) if isinstance(block, ResBlock) else block(x)
        return x
