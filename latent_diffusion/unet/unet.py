"""The 3-D U-Net over stacked stem latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.layers import group_norm, zero_init
from latent_diffusion.settings import UNetSettings
from latent_diffusion.unet.blocks import (
    NORM_EPS,
    AttentionBlock,
    BlockSequence,
    Downsample,
    ResBlock,
    Upsample,
    conv3x3,
    timestep_embedding,
)


class UNet3d(nn.Module):
    """Denoiser of all stems at once (Karchkhadze et al. 2025, arXiv 2409.12346).

    The stems are the channels of the first convolution and (latent channel, time, frequency) its volume. The mixture's
    latent needs no weights: it is average-pooled to every resolution and added, broadcast over channels, to the input
    of every input block and of every output block. Zeros, or None, mean "no mixture".
    """

    def __init__(self, settings: UNetSettings | None = None):
        super().__init__()
        self.settings = s = settings or UNetSettings()
        width, embedding = s.model_channels, 4 * s.model_channels
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def stage(c_in: int, c_out: int, factor: int) -> list[nn.Module]:
            attention = [AttentionBlock(c_out, s)] if factor in s.attention_resolutions else []
            return [ResBlock(c_in, c_out, embedding, s), *attention]

        self.input_blocks = nn.ModuleList([BlockSequence(conv3x3(s.in_channels, width))])
        skips, channels, last = [width], width, len(s.channel_mult) - 1
        for level, mult in enumerate(s.channel_mult):
            for _ in range(s.num_res_blocks):
                self.input_blocks.append(BlockSequence(*stage(channels, mult * width, 2**level)))
                channels = mult * width
                skips.append(channels)
            if level < last:
                self.input_blocks.append(BlockSequence(Downsample(channels, s)))
                skips.append(channels)

        self.middle_block = BlockSequence(
            ResBlock(channels, channels, embedding, s),
            AttentionBlock(channels, s),
            ResBlock(channels, channels, embedding, s),
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(s.channel_mult))):
            for i in range(s.num_res_blocks + 1):
                blocks = stage(channels + skips.pop(), mult * width, 2**level)
                channels = mult * width
                if level > 0 and i == s.num_res_blocks:
                    blocks.append(Upsample(channels, s))
                self.output_blocks.append(BlockSequence(*blocks))

        self.out = nn.Sequential(
            group_norm(channels, s.num_groups, NORM_EPS),
            nn.SiLU(),
            zero_init(conv3x3(channels, s.out_channels)),
        )

    def forward(self, x: Tensor, timesteps: Tensor, mixture: Tensor | None = None) -> Tensor:
        """Predict the noise (or z0, or velocity: whatever the model was trained for).

        Args:
            x: noisy latents (B, S, C, T, F); T and F multiples of 2^(levels - 1).
            timesteps: (B,).
            mixture: scaled latent of the mixture (B, C, T, F), or None for no condition.

        Returns:
            (B, S, C, T, F).
        """
        embedding = self.time_embed(timestep_embedding(timesteps, self.settings.model_channels).to(x.dtype))
        pyramid = self.condition_pyramid(mixture)
        level, skips, h = 0, [], x
        for block in self.input_blocks:
            h = block(_add(h, pyramid[level]), embedding)
            level += isinstance(block[0], Downsample)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(_add(torch.cat([h, skips.pop()], dim=1), pyramid[level]), embedding)
            level -= isinstance(block[-1], Upsample)
        return self.out(h)

    def condition_pyramid(self, mixture: Tensor | None) -> list[Tensor | None]:
        """The mixture at every resolution: level i is (B, 1, C, T / 2^i, F / 2^i), or None."""
        levels = len(self.settings.channel_mult)
        if mixture is None:
            return [None] * levels
        pyramid = [mixture[:, None]]
        for _ in range(levels - 1):
            pyramid.append(F.avg_pool3d(pyramid[-1], (1, 2, 2)))
        return pyramid


def _add(h: Tensor, condition: Tensor | None) -> Tensor:
    return h if condition is None else h + condition
