"""The variational autoencoder between log-mels and latents.

The published MusicLDM first stage (Chen et al. 2023, arXiv 2308.01546), itself an AutoencoderKL (Rombach et al. 2022,
arXiv 2112.10752). Attribute names are the checkpoint's key names.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latent_diffusion.first_stage.patches import PatchDecoder, PatchEncoder
from latent_diffusion.layers import group_norm, silu
from latent_diffusion.noise import NoiseSource, randn
from latent_diffusion.settings import AutoencoderSettings

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass
class DiagonalGaussian:
    """A Gaussian posterior with independent elements.

    Args:
        mean: (B, C, T, F).
        logvar: (B, C, T, F), clamped on construction by `from_moments`.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """Split (B, 2C, T, F) into mean and log-variance, the latter clamped to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation, (B, C, T, F)."""
        return torch.exp(0.5 * self.logvar)

    @property
    def var(self) -> Tensor:
        """Variance, (B, C, T, F)."""
        return torch.exp(self.logvar)

    def sample(self, noise: NoiseSource = None) -> Tensor:
        """Draw (B, C, T, F); `noise` is a generator, one generator an item, the noise itself, or None."""
        return self.mean + self.std * randn(self.mean.shape, noise, self.mean)

    def mode(self) -> Tensor:
        """The most likely latent, (B, C, T, F)."""
        return self.mean

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian, (B,): the *mean* over elements, as published, not their sum."""
        return 0.5 * (self.mean**2 + self.var - 1.0 - self.logvar).flatten(1).mean(1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a skip. (B, c_in, T, F) -> (B, c_out, T, F)."""

    def __init__(self, c_in: int, c_out: int, s: AutoencoderSettings):
        super().__init__()
        self.norm1 = group_norm(c_in, s.num_groups, 1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out, s.num_groups, 1e-6)
        self.dropout = nn.Dropout(s.dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class SpatialAttention(nn.Module):
    """One-head self-attention over all time-frequency positions. (B, c, T, F) -> same."""

    def __init__(self, channels: int, s: AutoencoderSettings):
        super().__init__()
        self.norm = group_norm(channels, s.num_groups, 1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c t f -> b 1 (t f) c").contiguous() for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(h, "b 1 (t f) c -> b c t f", t=x.shape[2]))


class Downsample(nn.Module):
    """Halve time and frequency: one row of zeros at the end of each axis, then a strided 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double time and frequency: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where the settings ask for it."""

    def __init__(self, c_in: int, c_out: int, blocks: int, attention: bool, s: AutoencoderSettings):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(c_in if i == 0 else c_out, c_out, s) for i in range(blocks))
        self.attn = nn.ModuleList(SpatialAttention(c_out, s) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, s: AutoencoderSettings):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, s)
        self.attn_1 = SpatialAttention(channels, s)
        self.block_2 = ResidualBlock(channels, channels, s)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


def _has_attention(s: AutoencoderSettings, level: int) -> bool:
    return s.resolution // 2**level in s.attn_resolutions


class Encoder(nn.Module):
    """Log-mel (B, 1, T, M) to features (B, 2 z_channels, T/r, M/r)."""

    def __init__(self, s: AutoencoderSettings):
        super().__init__()
        self.conv_in = nn.Conv2d(s.in_channels, s.ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = s.ch
        for i, mult in enumerate(s.ch_mult):
            level = Level(channels, s.ch * mult, s.num_res_blocks, _has_attention(s, i), s)
            channels = s.ch * mult
            if i < len(s.ch_mult) - 1:
                level.downsample = Downsample(channels)
            self.down.append(level)
        self.mid = Middle(channels, s)
        self.norm_out = group_norm(channels, s.num_groups, 1e-6)
        self.conv_out = nn.Conv2d(channels, 2 * s.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latent (B, z_channels, T/r, M/r) to log-mel (B, 1, T, M). `up[0]` is the highest resolution and runs last."""

    def __init__(self, s: AutoencoderSettings):
        super().__init__()
        channels = s.ch * s.ch_mult[-1]
        self.conv_in = nn.Conv2d(s.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels, s)
        levels: list[Level] = []
        for i, mult in reversed(list(enumerate(s.ch_mult))):
            level = Level(channels, s.ch * mult, s.num_res_blocks + 1, _has_attention(s, i), s)
            channels = s.ch * mult
            if i > 0:
                level.upsample = Upsample(channels)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(channels, s.num_groups, 1e-6)
        self.conv_out = nn.Conv2d(channels, s.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """VAE with a diagonal Gaussian posterior; `settings.kind` chooses between the published one and patches."""

    def __init__(self, settings: AutoencoderSettings | None = None):
        super().__init__()
        self.settings = s = settings or AutoencoderSettings()
        patches = s.kind == "patch"
        self.encoder = PatchEncoder(s) if patches else Encoder(s)
        self.decoder = PatchDecoder(s, ResidualBlock) if patches else Decoder(s)
        self.quant_conv = nn.Conv2d(2 * s.z_channels, 2 * s.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(s.embed_dim, s.z_channels, 1)

    def encode(self, log_mel: Tensor) -> DiagonalGaussian:
        """Posterior of log-mels.

        Args:
            log_mel: (B, 1, T, M); T and M multiples of the reduction r.

        Returns:
            Posterior over (B, C, T/r, M/r), unscaled.
        """
        # Patches cost nothing, and 16 bit would lose quiet detail.
        exact = torch.autocast(log_mel.device.type, enabled=False) if self.settings.kind == "patch" else nullcontext()
        with exact:
            return DiagonalGaussian.from_moments(self.quant_conv(self.encoder(log_mel)))

    def decode(self, z: Tensor) -> Tensor:
        """Log-mels (B, 1, T, M) of unscaled latents (B, C, T/r, M/r)."""
        return self.decoder(self.post_quant_conv(z))
