"""Inference on waveforms."""

from latent_diffusion.pipeline.hearing import AudioSource
from latent_diffusion.pipeline.masking import mask_mixture
from latent_diffusion.pipeline.pipeline import MultiTrackPipeline
from latent_diffusion.pipeline.results import MultiTrackResult, SamplingSettings, mix

__all__ = ["AudioSource", "MultiTrackPipeline", "MultiTrackResult", "SamplingSettings", "mask_mixture", "mix"]
