"""Inference on waveforms."""

from latent_diffusion.inference.hearing import AudioSource
from latent_diffusion.inference.masks import mask_mixture
from latent_diffusion.inference.pipeline import MultiTrackPipeline
from latent_diffusion.inference.results import MultiTrackResult, SamplingSettings, mix
from latent_diffusion.tasks import MaskSettings

__all__ = [
    "AudioSource",
    "MaskSettings",
    "MultiTrackPipeline",
    "MultiTrackResult",
    "SamplingSettings",
    "mask_mixture",
    "mix",
]
