"""How to sample, and what comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError
from latent_diffusion.tasks import MASK_EXPONENT, MEAN_MASK_EXPONENT

POSTERIOR_MEAN = "mean"
MEAN_AVERAGE, MEAN_PASSES = 4, 2  # that suit it: eight network calls
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class SamplingSettings:
    """How to sample. The defaults are the published ones; `MultiTrackPipeline.suited_sampling` has better ones.

    Args:
        sampler: a key of `latent_diffusion.diffusion.SAMPLERS`; or "mean": no sample but E[z0 | mixture], the mean of
            them all, in one call of the network. At the last timestep T, abar_T is next to 0 and z_T = noise says
            nothing about z0, so that the best guess of z0 there, sqrt(abar_T) z_T - sqrt(1 - abar_T) v for a network
            that predicts v, is that mean. `steps` and `eta` do not matter then. Not for a network that predicts noise:
            its errors would be divided by sqrt(abar_T).
        steps: denoising steps.
        eta: 0 deterministic to 1 ancestral (DDIM).
        batch_size: windows denoised at once.
        overlap: what neighbouring windows of a long piece share, as a part of a window, 0 to 0.9. Where they overlap,
            their predictions are blended at every step. 0 cuts side by side instead, every window on its own.
        section_windows: longest stretch that is sampled as one, in windows, at least 2; longer pieces are made in
            sections, each going on from the end of the one before, so that memory does not grow with the length.
        average: separation only: so many independent results, of which the mean log-mels are taken ("mean": the mean
            latents).
        passes: separation only: every pass after the first cuts the mixture by the stems' masks, adds noise to what it
            cut out up to the middle of the schedule, and takes the network's best guess of the clean stems from there;
            the mean of all passes is the result.
        spacing: where on the schedule the steps lie, one of `latent_diffusion.diffusion.SPACINGS`; None for the
            sampler's own.
        guidance_interval: the part of the schedule on which a guidance scale other than 0 and 1 counts, from 0 (clean)
            to 1 (noise); elsewhere the scale is 1, which costs one network call instead of two.
        precision: of the denoising network, float32 or bfloat16; all else is float32.
    """

    sampler: str = "ddim"
    steps: int = 200
    eta: float = 1.0
    batch_size: int = 4
    overlap: float = 0.25
    section_windows: int = 24
    average: int = 1
    passes: int = 1
    spacing: str | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not 0.0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap: found {self.overlap}, expected 0 (none) to 0.9 of a window")
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta: found {self.eta}, expected 0 or more")
        if self.batch_size < 1:
            raise ConfigError(f"batch size: found {self.batch_size}, expected at least 1")
        if self.section_windows < 2:
            raise ConfigError(f"section windows: found {self.section_windows}, expected at least 2")
        for name in ("average", "passes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least 1")
        interval = list(self.guidance_interval)
        if len(interval) != 2 or not 0.0 <= interval[0] <= interval[1] <= 1.0:
            raise ConfigError(f"guidance interval: found {interval}, expected two numbers, low and high, from 0 to 1")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: found {self.precision!r}, expected one of {', '.join(PRECISIONS)}")

    @property
    def calls(self) -> int:
        """Network calls for each window and each averaged result."""
        return (1 if self.sampler == POSTERIOR_MEAN else self.steps) + self.passes - 1

    def batches(self, windows: int) -> int:
        """Network calls that one step on so many windows takes."""
        return -(-windows // self.batch_size)

    @property
    def calls_in_all(self) -> int:
        """Network calls for each window, those of all averaged results together."""
        return self.calls * self.average

    @property
    def mask_exponent(self) -> float:
        """What the masks' magnitudes are raised to where nothing else is asked for."""
        return MEAN_MASK_EXPONENT if self.sampler == POSTERIOR_MEAN else MASK_EXPONENT


@dataclass
class MultiTrackResult:
    """What one sampling run over a batch made.

    Args:
        stems: the model's stems, in order.
        generated: those that were made; the others are the given ones.
        latents: (B, S, C, T/r, F), scaled.
        log_mels: (B, S, T, M).
        waveforms: (B, S, N) at the model's rate; given stems are the original audio.
        mixture: (B, N), sum of the stems clipped to [-1, 1].
    """

    stems: tuple[str, ...]
    generated: tuple[str, ...]
    latents: Tensor
    log_mels: Tensor
    waveforms: Tensor
    mixture: Tensor


def mix(stems: Tensor) -> Tensor:
    """Mixture (..., N) of stems (..., S, N): their sum clipped to [-1, 1]."""
    return stems.sum(-2).clamp(-1.0, 1.0)
