"""How to sample, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latent_diffusion.errors import ConfigError


@dataclass
class SamplingSettings:
    """How to sample.

    Args:
        sampler: a key of `latent_diffusion.diffusion.SAMPLERS`.
        steps: denoising steps.
        eta: 0 deterministic to 1 ancestral (DDIM).
        batch_size: windows denoised at once.
        overlap: what neighbouring windows of a long piece share, as a part of a window, 0 to 0.9. Where they overlap,
            their predictions are blended at every step. 0 cuts side by side instead, every window on its own.
        section_windows: longest stretch that is sampled as one, in windows, at least 2; longer pieces are made in
            sections, each going on from the end of the one before, so that memory does not grow with the length.
    """

    sampler: str = "ddim"
    steps: int = 200
    eta: float = 1.0
    batch_size: int = 4
    overlap: float = 0.25
    section_windows: int = 24

    def __post_init__(self) -> None:
        if not 0.0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap: found {self.overlap}, expected 0 (none) to 0.9 of a window")
        if self.batch_size < 1:
            raise ConfigError(f"batch size: found {self.batch_size}, expected at least 1")
        if self.section_windows < 2:
            raise ConfigError(f"section windows: found {self.section_windows}, expected at least 2")


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
