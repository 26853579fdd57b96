"""Inference on waveforms."""

from latent_diffusion.pipeline.pipeline import MultiTrackPipeline, MultiTrackResult, SamplingSettings, mix

__all__ = ["MultiTrackPipeline", "MultiTrackResult", "SamplingSettings", "mix"]
