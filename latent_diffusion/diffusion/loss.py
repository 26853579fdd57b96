"""The training objective."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_diffusion.diffusion.schedule import NoiseSchedule

SEPARATION_WEIGHT = 1e-5


@dataclass(frozen=True)
class LossSettings:
    """Terms of the objective; the defaults are the published ones.

    Args:
        snr_gamma: clamp of the min-SNR weighting (Hang et al. 2023, arXiv 2303.09556); None for none.
        original_elbo_weight: weight of the variational bound.
        separate_stems: push the one-step denoised stems apart (published `seperate_stem_z`).
        silence_tau: weight errors by exp(log_mel / tau), so that silence counts less; None for none. The published
            formula has the opposite sign and counts silence most.
        channel_power: with a scale for each latent channel, or channel and band, weight them by this power of their
            standard deviations: 0 counts all alike (published), 2 as they count in the log-mel.
    """

    snr_gamma: float | None = None
    original_elbo_weight: float = 0.0
    separate_stems: bool = False
    silence_tau: float | None = None
    channel_power: float = 0.0


def diffusion_loss(
    schedule: NoiseSchedule,
    z0: Tensor,
    z_t: Tensor,
    noise: Tensor,
    output: Tensor,
    t: Tensor,
    settings: LossSettings,
    logvar: Tensor | None = None,
    log_mel: Tensor | None = None,
    latent_std: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean squared error of the network's output, and the optional terms around it.

    Args:
        schedule: says what the output should have been.
        z0, z_t, noise, output: (B, S, C, T, F).
        t: (B,), or one for each stem (B, S); stems at -1 are given, without noise, and do not count.
        settings: which terms count.
        logvar: (timesteps,) learned log-variance of the error at each step, or None.
        log_mel: (B, S, T * r, M), for silence weighting.
        latent_std: (C, 1, 1) or (C, 1, F), standard deviations of the unscaled latents, for channel weighting; a
            scalar weighs none.

    Returns:
        "loss" (what is minimised), "loss_simple" (the plain error) and "loss_vlb", all scalars.
    """
    error = (output.float() - schedule.target(z0, noise, t)) ** 2
    made = (t >= 0).to(error)
    levels = t.clamp(min=0)

    def per_level(error: Tensor) -> Tensor:
        """Mean error (B,), or (B, S) where stems have levels of their own."""
        return error.flatten(t.dim()).mean(-1)

    def mean(values: Tensor) -> Tensor:
        """Over the items' means over the stems that are made."""
        if t.dim() == 1:
            return values.mean()
        return ((values * made).sum(1) / made.sum(1).clamp(min=1)).mean()

    weighted = per_level(error)
    logs = {"loss_simple": mean(weighted), "loss_vlb": mean(schedule.lvlb_weights[levels] * weighted)}
    if settings.channel_power and latent_std is not None:
        weight = latent_std**settings.channel_power
        error = error * (weight / weight.mean())
        weighted = per_level(error)
    if settings.silence_tau is not None and log_mel is not None:
        weighted = per_level(error * silence_weights(log_mel, settings.silence_tau, z0))
    if settings.snr_gamma is not None:
        weighted = weighted * min_snr_weight(schedule, levels, settings.snr_gamma)
    if logvar is not None:
        weighted = weighted / logvar[levels].exp() + logvar[levels]
    loss = mean(weighted) + settings.original_elbo_weight * logs["loss_vlb"]
    if settings.separate_stems:
        loss = loss + SEPARATION_WEIGHT * separation_term(schedule, z_t, output, levels)
    return {"loss": loss, **logs}


def min_snr_weight(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) as a weight (B,) on the error of z0, converted to an error of the noise or velocity."""
    abar = schedule.alphas_cumprod[t]
    snr = abar / (1 - abar)
    scale = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[schedule.settings.parameterization]
    return snr.clamp(max=gamma) / scale


def silence_weights(log_mel: Tensor, tau: float, z0: Tensor) -> Tensor:
    """exp(log_mel / tau) at the latents' resolution, mean 1 an item, shaped (B, S, 1, T, F)."""
    pooled = F.adaptive_avg_pool2d(log_mel.float(), z0.shape[-2:])
    weight = ((pooled - pooled.amax((1, 2, 3), keepdim=True)) / tau).exp()
    return (weight / weight.mean((1, 2, 3), keepdim=True))[:, :, None]


def separation_term(schedule: NoiseSchedule, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """Minus the summed squared distances between the stems after one reverse step without noise, a scalar."""
    noise = schedule.predict_noise(z_t, output.float(), t)
    shape = (*t.shape, *[1] * (z_t.dim() - t.dim()))
    beta, abar = schedule.betas[t].reshape(shape), schedule.alphas_cumprod[t].reshape(shape)
    denoised = (z_t - noise * beta / (1 - abar).sqrt()) / (1 - beta).sqrt()
    pairs = combinations(denoised.unbind(1), 2)
    return -sum(((a - b) ** 2).flatten(1).sum(1).mean() for a, b in pairs)
