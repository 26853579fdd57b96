"""Noise schedule, samplers and guidance."""

from latent_diffusion.diffusion.guidance import guided_denoiser
from latent_diffusion.diffusion.samplers import SAMPLERS, sample
from latent_diffusion.diffusion.schedule import NoiseSchedule

__all__ = ["SAMPLERS", "NoiseSchedule", "guided_denoiser", "sample"]
