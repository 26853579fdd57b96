"""Noise schedule, samplers and guidance."""

from latent_diffusion.diffusion.guidance import guided_denoiser
from latent_diffusion.diffusion.samplers import SAMPLERS, noise_levels, sample
from latent_diffusion.diffusion.schedule import SPACINGS, NoiseSchedule

__all__ = ["SAMPLERS", "SPACINGS", "NoiseSchedule", "guided_denoiser", "noise_levels", "sample"]
