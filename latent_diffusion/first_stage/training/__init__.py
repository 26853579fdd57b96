"""Training a first stage, VAE and vocoder, on anyone's own sounds."""

from latent_diffusion.first_stage.training.base import FirstStageTrainingSettings, VocoderTrainingSettings
from latent_diffusion.first_stage.training.discriminators import PatchDiscriminator, WaveformDiscriminator
from latent_diffusion.first_stage.training.losses import (
    AutoencoderLoss,
    AutoencoderLossSettings,
    VocoderLoss,
    VocoderLossSettings,
)
from latent_diffusion.first_stage.training.modules import AutoencoderTraining, VocoderTraining

__all__ = [
    "AutoencoderLoss",
    "AutoencoderLossSettings",
    "AutoencoderTraining",
    "FirstStageTrainingSettings",
    "PatchDiscriminator",
    "VocoderLoss",
    "VocoderLossSettings",
    "VocoderTraining",
    "VocoderTrainingSettings",
    "WaveformDiscriminator",
]
