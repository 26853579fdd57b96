"""The frozen first stage: log-mel front end, VAE and vocoder, and the one way between waveforms and latents."""

from latent_diffusion.first_stage.autoencoder import AutoencoderKL, DiagonalGaussian
from latent_diffusion.first_stage.first_stage import FirstStage, build_vocoder
from latent_diffusion.first_stage.griffin_lim import GriffinLim
from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.first_stage.spectral import SpectralVocoder
from latent_diffusion.first_stage.vocoder import HiFiGAN

__all__ = [
    "AutoencoderKL",
    "DiagonalGaussian",
    "FirstStage",
    "GriffinLim",
    "HiFiGAN",
    "LogMel",
    "SpectralVocoder",
    "build_vocoder",
]
