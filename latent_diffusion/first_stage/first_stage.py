"""VAE, front end and vocoder in one module."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from latent_diffusion.first_stage.autoencoder import AutoencoderKL, DiagonalGaussian
from latent_diffusion.first_stage.griffin_lim import GriffinLim
from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.first_stage.spectral import SpectralVocoder
from latent_diffusion.first_stage.vocoder import HiFiGAN
from latent_diffusion.settings import MelSettings, ModelSettings, VocoderSettings


def build_vocoder(settings: VocoderSettings, mel: MelSettings) -> nn.Module:
    """The network that `settings.kind` names: log-mels (B, M, T) to waveforms (B, 1, ~ T * hop_length).

    A HiFi-GAN has its weight norm, as in training.
    """
    if settings.kind == "griffin_lim":
        return GriffinLim(mel)
    return SpectralVocoder(settings, mel) if settings.kind == "spectral" else HiFiGAN(settings)


class FirstStage(AutoencoderKL):
    """Waveform <-> log-mel <-> latent, for any number of leading axes.

    State-dict keys are the published `first_stage_model.*`: `encoder.*`, `decoder.*`, `quant_conv.*`,
    `post_quant_conv.*` and a `vocoder.*` without weight norm.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__(settings.autoencoder)
        self.mel_settings = settings.mel
        self.log_mel = LogMel(settings.mel)
        self.vocoder = build_vocoder(settings.vocoder, settings.mel)
        if isinstance(self.vocoder, HiFiGAN):
            self.vocoder.remove_weight_norm()

    def waveform_to_log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel of exactly the window's frames.

        Args:
            waveform: (..., N) with N a multiple of hop_length.

        Returns:
            (..., N // hop_length, M); the extra frame that centring adds is dropped.
        """
        return self.log_mel(waveform)[..., : waveform.shape[-1] // self.mel_settings.hop_length, :]

    def log_mel_to_posterior(self, log_mel: Tensor) -> DiagonalGaussian:
        """Posterior over (P, C, T/r, F) of log-mels (..., T, M), leading axes flattened to P."""
        frames, bins = log_mel.shape[-2:]
        return self.encode(log_mel.reshape(-1, 1, frames, bins))

    def latents_to_log_mel(self, z: Tensor, max_batch: int = 8) -> Tensor:
        """Decode unscaled latents (..., C, T/r, F) to log-mels (..., T, M), at most `max_batch` at once."""
        flat = z.reshape(-1, *z.shape[-3:])
        with torch.autocast(z.device.type, enabled=False):  # 16 bit would be heard
            decoded = torch.cat([self.decode(part) for part in flat.float().split(max_batch)])
        return decoded.reshape(*z.shape[:-3], *decoded.shape[-2:])

    def log_mel_to_waveform(self, log_mel: Tensor, max_batch: int = 8) -> Tensor:
        """Vocode log-mels (..., T, M) to waveforms (..., n), at most `max_batch` at once.

        n is a little more than T * hop_length (32 samples at the published rates); the caller cuts.
        """
        flat = rearrange(log_mel.reshape(-1, *log_mel.shape[-2:]), "p t m -> p m t").contiguous()
        with torch.autocast(log_mel.device.type, enabled=False):
            waveform = torch.cat([self.vocoder(part)[:, 0] for part in flat.float().split(max_batch)])
        return waveform.reshape(*log_mel.shape[:-2], -1)
