"""The published behaviour, in few lines, as the plain thing that other benchmarks measure against; used nowhere else.

Attention holds its whole softmax and goes through activation checkpointing, in inference, too; sampling is DDIM with
200 steps at eta 1 and runs both branches of guidance at every step, as one batch; all stems and the mixture are encoded
each time, though separation needs the mixture only; the vocoder works out its weights from their norms at every call;
training reads whole files and encodes all stems and the mixture at every step. The weights and interfaces are ours.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latent_diffusion.first_stage.autoencoder import SpatialAttention
from latent_diffusion.first_stage.vocoder import WeightNormMixin
from latent_diffusion.inference import MultiTrackPipeline, mix
from latent_diffusion.noise import generators, randn
from latent_diffusion.unet.blocks import AttentionBlock
from utilities.audio import read_audio, resample, to_mono
from utilities.data.stems import StemDataset, Track


def full_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (P, d, n) heads with the whole (P, n, n) matrix in memory."""
    weights = torch.einsum("pdi,pdj->pij", q * q.shape[1] ** -0.25, k * k.shape[1] ** -0.25).softmax(-1)
    return torch.einsum("pij,pdj->pdi", weights, v)


class PublishedAttention(AttentionBlock):
    """The U-Net's attention."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, C, T, F) -> same."""
        return checkpoint(self._attend, x, use_reentrant=False)

    def _attend(self, x: Tensor) -> Tensor:
        sequence = x.flatten(2)
        batch, channels, length = sequence.shape
        heads = self.qkv(self.norm(sequence)).reshape(batch * self.heads, 3 * channels // self.heads, length)
        attended = full_softmax(*heads.chunk(3, dim=1)).reshape(sequence.shape)
        return (sequence + self.proj_out(attended)).reshape(x.shape)


class PublishedSpatialAttention(SpatialAttention):
    """The VAE's attention."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, T, F) -> same."""
        h = self.norm(x)
        attended = full_softmax(self.q(h).flatten(2), self.k(h).flatten(2), self.v(h).flatten(2))
        return x + self.proj_out(attended.reshape(x.shape))


def as_published(module: nn.Module) -> nn.Module:
    """The module itself, its attention and its vocoder's weights as published."""
    for part in module.modules():
        if type(part) is AttentionBlock:
            part.__class__ = PublishedAttention
        elif type(part) is SpatialAttention:
            part.__class__ = PublishedSpatialAttention
        elif isinstance(part, WeightNormMixin) and part.weight is not None:
            part.split()
    return module


class PublishedPipeline:
    """Separation with the weights of one of our pipelines, which keeps its own."""

    def __init__(self, pipeline: MultiTrackPipeline) -> None:
        self.unet = as_published(copy.deepcopy(pipeline.unet))
        self.first_stage = as_published(copy.deepcopy(pipeline.first_stage))
        self.schedule, self.scale_factor, self.settings = pipeline.schedule, pipeline.scale_factor, pipeline.settings

    @torch.no_grad()
    def encode(self, waveforms: Tensor, noise: Any) -> Tensor:
        """Waveforms (P, N) to latents (P, C, T/r, F), features included."""
        log_mel = self.first_stage.waveform_to_log_mel(waveforms)
        return self.first_stage.log_mel_to_posterior(log_mel).sample(noise) * self.scale_factor

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (..., C, T/r, F) to log-mels (..., T, M) and waveforms (..., N)."""
        log_mel = self.first_stage.latents_to_log_mel(z / self.scale_factor, max_batch=len(z.flatten(0, -4)))
        waveform = self.first_stage.log_mel_to_waveform(log_mel, max_batch=len(z.flatten(0, -4)))
        return log_mel, waveform[..., : self.settings.mel.window_samples]

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, condition: Tensor, scale: float, both: bool = True) -> Tensor:
        """Both branches as one batch, whatever the scale; or the one with the mixture."""
        if not both:
            return self.unet(z, t, condition)
        pair = torch.cat([torch.zeros_like(condition), condition])
        without, with_mixture = self.unet(torch.cat([z, z]), torch.cat([t, t]), pair).chunk(2)
        return without + scale * (with_mixture - without)

    @torch.no_grad()
    def separate(
        self, stems: Tensor, seed: int = 0, scale: float = 1.0, steps: int = 200, eta: float = 1.0, both: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Log-mels (S, T, M) and waveforms (S, N) of the stems in the mixture of stems (S, N)."""
        source = generators([seed])
        self.encode(stems, generators(range(len(stems))))
        condition = self.encode(mix(stems)[None], source)
        shape = (1, len(self.settings.stems), *condition.shape[1:])
        z = randn(shape, source, condition)
        times = [i * (self.schedule.num_timesteps // steps) + 1 for i in range(steps)]
        abar = self.schedule.alphas_cumprod.double().tolist()
        ends = [abar[0], *(abar[t] for t in times)]
        for i in reversed(range(steps)):
            t, a, a_next = torch.tensor([times[i]]), abar[times[i]], ends[i]
            output = self.predict(z, t, condition, scale, both)
            z0, noise = self.schedule.predict_z0(z, output, t), self.schedule.predict_noise(z, output, t)
            sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
            z = math.sqrt(a_next) * z0 + math.sqrt(1 - a_next - sigma**2) * noise
            z = z + sigma * randn(shape, source, condition)
        return self.decode(z[0])


class WholeFileDataset(StemDataset):
    """Training windows cut out of whole files, which are read and resampled for every item."""

    def _item(self, track: Track, start: int, seed: int | None) -> dict[str, Any]:
        start = self._start(track, start, None if seed is None else np.random.default_rng(seed))
        rate, window = self.mel.sample_rate, self.mel.window_samples
        whole = [
            resample(to_mono(read_audio(f)[0]), i.sample_rate, rate)
            for f, i in zip(track.files, track.infos, strict=True)
        ]
        stems = torch.cat(whole)[:, start : start + window].clamp(-1.0, 1.0)
        stems = F.pad(stems, (0, window - stems.shape[1]))
        return {"stems": stems, "mixture": mix(stems), "name": track.name, "valid_samples": window}
