"""A transformer over latent frames: one token for each frame of all stems."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latent_diffusion.layers import zero_init
from latent_diffusion.settings import StemTransformerSettings
from latent_diffusion.unet.blocks import timestep_embedding

ROTARY_BASE = 10_000.0


class StemTransformer(nn.Module):
    """Denoiser of all stems at once, built of matrix products.

    A token is a latent frame: the S x C x F values of all stems, the mixture's C x F, and the rows of a plan. Blocks of
    attention with rotary positions (Su et al. 2021) and normalised queries and keys (Henry et al. 2020) are modulated
    by the noise levels (adaLN-zero, Peebles and Xie 2023), with one modulation for all blocks and an offset for each
    (Chen et al. 2023, PixArt). Every stem has a noise level of its own: stems that are given have level -1, no noise.

    The part of the output that is proportional to the input has weights of its own, so that the tokens need not carry
    the noise through all blocks.
    """

    def __init__(self, settings: StemTransformerSettings):
        super().__init__()
        self.settings = s = settings
        values = s.stems * s.latent_channels * s.latent_bins
        inputs = values + s.latent_channels * s.latent_bins + s.plan_rows
        self.embed_levels = nn.Sequential(
            nn.Linear(s.stems * s.level_features, s.width), nn.SiLU(), nn.Linear(s.width, s.width), nn.SiLU()
        )
        self.embed_frames = nn.Linear(inputs, s.width)
        self.neighbours = nn.Conv1d(s.width, s.width, s.kernel_size, padding=s.kernel_size // 2, groups=s.width)
        self.modulation = zero_init(nn.Linear(s.width, 6 * s.width))
        self.blocks = nn.ModuleList(TransformerBlock(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width, elementwise_affine=False)
        self.modulate_output = zero_init(nn.Linear(s.width, 2 * s.width))
        self.output = zero_init(nn.Linear(s.width, values))
        self.passed_on = zero_init(nn.Linear(s.width, values))

    def forward(
        self, x: Tensor, timesteps: Tensor, mixture: Tensor | None = None, plan: Tensor | None = None
    ) -> Tensor:
        """Predict the noise (or z0, or velocity: whatever the model was trained for).

        Args:
            x: noisy latents (B, S, C, T, F), any T.
            timesteps: (B,), or one for each stem (B, S); -1: without noise.
            mixture: scaled latent of the mixture (B, C, T, F), or None for no condition.
            plan: rows of `latent_diffusion.plan` (B, P, T), or None for none.

        Returns:
            (B, S, C, T, F).
        """
        batch, stems, channels, frames, bins = x.shape
        if timesteps.dim() == 1:
            timesteps = timesteps[:, None].expand(batch, stems)
        mixture = x.new_zeros(batch, channels, frames, bins) if mixture is None else mixture.to(x.dtype)
        plan = x.new_zeros(batch, self.settings.plan_rows, frames) if plan is None else plan.to(x.dtype)
        levels = timestep_embedding(timesteps.flatten(), self.settings.level_features).reshape(batch, -1)
        levels = self.embed_levels(levels.to(x.dtype))
        values = rearrange(x, "b s c t f -> b t (s c f)")
        inputs = [values, rearrange(mixture, "b c t f -> b t (c f)"), rearrange(plan, "b p t -> b t p")]
        h = self.embed_frames(torch.cat(inputs, dim=-1))
        h = h + self.neighbours(h.transpose(1, 2)).transpose(1, 2)
        modulation, rotation = self.modulation(levels), rotary_angles(frames, self.settings, x.device)
        for block in self.blocks:
            h = block(h, modulation, rotation)
        shift, scale = self.modulate_output(levels)[:, None].chunk(2, dim=-1)
        out = self.output(self.norm(h) * (1 + scale) + shift) + self.passed_on(levels)[:, None] * values
        return rearrange(out, "b t (s c f) -> b s c t f", s=stems, c=channels)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each behind a normalisation that the noise levels modulate."""

    def __init__(self, s: StemTransformerSettings):
        super().__init__()
        self.heads = s.heads
        self.offset = nn.Parameter(torch.zeros(6 * s.width))
        self.norm1 = nn.LayerNorm(s.width, elementwise_affine=False)
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.gain_q, self.gain_k = (nn.Parameter(torch.ones(s.width // s.heads)) for _ in range(2))
        self.proj = nn.Linear(s.width, s.width)
        self.norm2 = nn.LayerNorm(s.width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(s.width, 4 * s.width), nn.GELU(approximate="tanh"), nn.Linear(4 * s.width, s.width)
        )
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, h: Tensor, modulation: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens (B, T, width), modulation (B, 6 width) -> (B, T, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.offset)[:, None].chunk(6, dim=-1)
        h = h + gate1 * self.dropout(self._attend(self.norm1(h) * (1 + scale1) + shift1, rotation))
        return h + gate2 * self.dropout(self.mlp(self.norm2(h) * (1 + scale2) + shift2))

    def _attend(self, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = rearrange(self.qkv(h), "b t (n h d) -> n b h t d", n=3, h=self.heads).unbind(0)
        q, k = (rotate(normalise(x, gain), rotation) for x, gain in ((q, self.gain_q), (k, self.gain_k)))
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b t (h d)"))


def rotary_angles(frames: int, s: StemTransformerSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, d / 2) of rotary positions, d being the width of a head."""
    half = s.width // s.heads // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=device) / half)
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def normalise(x: Tensor, gain: Tensor) -> Tensor:
    """Root mean square normalisation over the last axis, in float32 whatever the precision around it."""
    return F.rms_norm(x.float(), gain.shape, gain.float()).to(x.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of features of queries or keys (B, h, T, d) by their position."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
