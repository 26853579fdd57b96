"""Classifier-free guidance by the mixture (Ho and Salimans 2022), on all of the schedule or on a part of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latent_diffusion.diffusion.samplers import Denoiser

Scale = float | Sequence[float]
Interval = tuple[float, float]  # parts of the schedule's timesteps, 0 (clean) to 1 (noise), both ends included
EVERYWHERE: Interval = (0.0, 1.0)


def guided_denoiser(
    unet: nn.Module, mixture: Tensor | None, scale: Scale, interval: Interval = EVERYWHERE, timesteps: int = 1000
) -> Denoiser:
    """A denoiser e = e_uncond + s (e_cond - e_uncond) that runs only the branches that count.

    At scale 1 only the conditional network runs, at 0 only the unconditional one; otherwise both, as one batch. Outside
    the interval only the conditional network runs (Kynkaanniemi et al. 2024, arXiv 2404.07724).

    Args:
        unet: network (z_t (B, S, C, T, F), t (B,), mixture or None) -> (B, S, C, T, F).
        mixture: condition (B, C, T, F); None means that there is none, whatever the scale.
        scale: one number, or one number a stem (S,).
        interval: where on the schedule the scale counts.
        timesteps: of the schedule.

    Returns:
        Function (z_t, t) -> network output.
    """
    scales = torch.as_tensor(scale, dtype=torch.float32)
    if mixture is None or bool((scales == 0).all()):
        return lambda z, t: unet(z, t, None)
    if bool((scales == 1).all()):
        return lambda z, t: unet(z, t, mixture)
    null = torch.zeros_like(mixture)
    weights = scales.to(mixture).reshape(1, -1, 1, 1, 1)

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        if interval != EVERYWHERE and not interval[0] <= float(t[0]) / (timesteps - 1) <= interval[1]:
            return unet(z, t, mixture)
        uncond, cond = unet(z.repeat(2, 1, 1, 1, 1), t.repeat(2), torch.cat([null, mixture])).chunk(2)
        return uncond + weights * (cond - uncond)

    return denoise
