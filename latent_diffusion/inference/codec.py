"""From waveforms to latents and back: the one way in and the one way out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.first_stage import DiagonalGaussian, FirstStage
from latent_diffusion.inference.counter import Counter
from latent_diffusion.inference.results import POSTERIOR_MEAN, MultiTrackResult, SamplingSettings, mix
from latent_diffusion.inference.windows import Windows
from latent_diffusion.noise import NoiseSource
from latent_diffusion.settings import ModelSettings

DEFAULT_OVERLAP = SamplingSettings.overlap


class LatentCodec:
    """One model's networks, and its ways between waveforms at its own rate and scaled latents.

    What is longer than a window is blended from windows.

    Args:
        unet: the denoiser.
        first_stage: log-mel, VAE and vocoder.
        schedule: the noise schedule.
        scale_factor: multiplies latents after encoding; a scalar, one number for each latent channel (C, 1, 1), or for
            each channel and band (C, 1, F).
        settings: the model's description.
        latent_mean: is taken off before, shaped alike; None for 0, as published.
    """

    def __init__(
        self,
        unet: nn.Module,
        first_stage: FirstStage,
        schedule: NoiseSchedule,
        scale_factor: Tensor,
        settings: ModelSettings,
        latent_mean: Tensor | None = None,
    ):
        self.unet, self.first_stage, self.schedule = unet, first_stage, schedule
        self.latent_mean = torch.zeros_like(scale_factor) if latent_mean is None else latent_mean
        self.scale_factor, self.settings = scale_factor, settings

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the model's order."""
        return self.settings.stems

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.schedule.alphas_cumprod.device

    @property
    def latent_hop(self) -> int:
        """Samples at the model's rate that one latent position in time stands for."""
        return self.settings.mel.hop_length * self.settings.autoencoder.reduction

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """(C, T/r, F) of a window of `samples`."""
        channels, _, bins = self.settings.latent_shape
        return channels, samples // self.latent_hop, bins

    def windows(self, frames: int, overlap: float) -> Windows | None:
        """The windows of `frames` latent frames, `overlap` being a part of a window; None where one holds all."""
        window = self.settings.latent_shape[1]
        if frames <= window:
            return None
        return Windows(frames, window, min(window - 1, round(overlap * window)))

    # The two ways between waveforms and latents.

    @torch.no_grad()
    def encode(
        self, waveforms: Tensor, noise: NoiseSource = None, overlap: float = DEFAULT_OVERLAP
    ) -> tuple[Tensor, Tensor]:
        """Scaled latents of waveforms: a *sample* of the posterior, as published.

        Args:
            waveforms: (..., N) at the model's rate; N a multiple of hop_length * r.
            noise: source of the sample (see `latent_diffusion.noise`); noise itself is (P, C, T/r, F).
            overlap: of the windows whose posteriors are blended, where N is longer than one.

        Returns:
            latents (..., C, T/r, F) and log-mels (..., T, M).
        """
        log_mel = self.first_stage.waveform_to_log_mel(waveforms)
        r = self.settings.autoencoder.reduction
        windows = self.windows(log_mel.shape[-2] // r, overlap)
        if windows is None:
            posterior = self.first_stage.log_mel_to_posterior(log_mel)
        else:
            cut = windows.scaled(r).cut(log_mel.reshape(-1, *log_mel.shape[-2:]))  # (P, W, T, M)
            parts = [self.first_stage.log_mel_to_posterior(part) for part in cut.unbind(1)]
            mean = windows.blend(torch.stack([part.mean for part in parts], dim=1))
            std = windows.blend(torch.stack([part.std for part in parts], dim=1))
            posterior = DiagonalGaussian(mean, 2 * std.log())
        z = self.draw(posterior, noise)
        return z.reshape(*waveforms.shape[:-1], *z.shape[1:]), log_mel

    def draw(self, posterior: DiagonalGaussian, noise: NoiseSource = None) -> Tensor:
        """Scaled latents: a sample of the first stage's posterior, of the posterior's shape."""
        return (posterior.sample(noise) - self.latent_mean) * self.scale_factor

    def undo_scale(self, z: Tensor) -> Tensor:
        """Latents as the first stage knows them, of scaled ones."""
        return z / self.scale_factor + self.latent_mean

    @torch.no_grad()
    def decode_log_mels(self, z: Tensor, overlap: float = DEFAULT_OVERLAP) -> Tensor:
        """Log-mels (..., T, M) of scaled latents (..., C, T/r, F), blended from windows where there are several."""
        windows = self.windows(z.shape[-2], overlap)
        if windows is None:
            return self.first_stage.latents_to_log_mel(self.undo_scale(z))
        cut = windows.cut(self.undo_scale(z).reshape(-1, *z.shape[-3:]))  # (P, W, C, T/r, F)
        log_mels = torch.stack([self.first_stage.latents_to_log_mel(part) for part in cut.unbind(1)], dim=1)
        blended = windows.scaled(self.settings.autoencoder.reduction).blend(log_mels)
        return blended.reshape(*z.shape[:-3], *blended.shape[-2:])

    def averaged_log_mels(self, z: Tensor, sampling: SamplingSettings) -> Tensor:
        """Log-mels (B, ..., T, M) that sampled latents (B * average, ..., C, T/r, F) have in the mean.

        Estimates of one posterior mean differ by the network's error alone: their mean is taken first and decoded once.
        """
        if sampling.sampler == POSTERIOR_MEAN:
            return self.decode_log_mels(average(z, sampling.average), sampling.overlap)
        return average(self.decode_log_mels(z, sampling.overlap), sampling.average)

    @torch.no_grad()
    def vocode(self, log_mel: Tensor, overlap: float = DEFAULT_OVERLAP, counter: Counter | None = None) -> Tensor:
        """Waveforms (..., T * hop_length) of log-mels (..., T, M), blended from windows where there are several.

        `counter` counts a stage of one step per window and waveform.
        """
        counter, count = counter or Counter(), math.prod(log_mel.shape[:-2])
        r, hop = self.settings.autoencoder.reduction, self.settings.mel.hop_length
        windows = self.windows(log_mel.shape[-2] // r, overlap)
        counter.stage(count * (1 if windows is None else len(windows)))
        if windows is None:
            waveform = self.first_stage.log_mel_to_waveform(log_mel)[..., : log_mel.shape[-2] * hop]
            counter.tick(count)
            return waveform
        windows = windows.scaled(r)
        cut = windows.cut(log_mel.reshape(-1, *log_mel.shape[-2:]))  # (P, W, T, M)
        samples = windows.window * hop
        parts = []
        for part in cut.unbind(1):
            parts.append(self.first_stage.log_mel_to_waveform(part)[..., :samples])
            counter.tick(count)
        blended = windows.scaled(hop).blend(torch.stack(parts, dim=1), axis=-1)
        return blended.reshape(*log_mel.shape[:-2], -1)

    def decode(self, z: Tensor, overlap: float = DEFAULT_OVERLAP) -> tuple[Tensor, Tensor]:
        """Log-mels (..., T, M) and waveforms (..., T * hop_length) of scaled latents (..., C, T/r, F)."""
        log_mel = self.decode_log_mels(z, overlap)
        return log_mel, self.vocode(log_mel, overlap)

    @torch.no_grad()
    def finish(
        self,
        z: Tensor,
        made: tuple[str, ...],
        given: Tensor | None,
        sampling: SamplingSettings | None = None,
        counter: Counter | None = None,
    ) -> MultiTrackResult:
        """Decode sampled latents (B * average, S, C, T/r, F); given stems (B, S, N) come back as the original audio.

        `counter` as in `vocode`.
        """
        s = sampling or SamplingSettings()
        indices, overlap = [self.stems.index(stem) for stem in made], s.overlap
        made_log_mels = self.averaged_log_mels(z[:, indices], s)
        made_waveforms = self.vocode(made_log_mels, overlap, counter)
        if given is None:
            log_mels, waveforms = made_log_mels, made_waveforms
        else:
            log_mels, waveforms = self.first_stage.waveform_to_log_mel(given), given.clone()
            log_mels[:, indices], waveforms[:, indices] = made_log_mels, made_waveforms
        return MultiTrackResult(self.stems, made, average(z, s.average), log_mels, waveforms, mix(waveforms))


def average(x: Tensor, copies: int) -> Tensor:
    """Means of neighbouring items: (B * copies, ...) -> (B, ...)."""
    return x if copies == 1 else x.unflatten(0, (-1, copies)).mean(1)
