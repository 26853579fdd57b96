"""Waveforms in, stems out: the only inference path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from latent_diffusion.diffusion import NoiseSchedule, guided_denoiser, sample
from latent_diffusion.diffusion.guidance import Scale
from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.first_stage import FirstStage
from latent_diffusion.noise import NoiseSource, generators
from latent_diffusion.pipeline.windows import cut_windows, join_windows
from latent_diffusion.settings import ModelSettings
from latent_diffusion.tasks import Arrangement, Generation, Separation, Task

Waveform = Tensor | np.ndarray


@dataclass
class SamplingSettings:
    """How to sample.

    Args:
        sampler: a key of `latent_diffusion.diffusion.SAMPLERS`.
        steps: denoising steps.
        eta: 0 deterministic to 1 ancestral (DDIM).
        batch_size: windows denoised at once.
    """

    sampler: str = "ddim"
    steps: int = 200
    eta: float = 1.0
    batch_size: int = 4


@dataclass
class MultiTrackResult:
    """What one sampling run over a batch of windows made.

    Args:
        stems: the model's stems, in order.
        generated: those that were made; the others are the given ones.
        latents: (B, S, C, T/r, F), scaled.
        log_mels: (B, S, T, M).
        waveforms: (B, S, N) at the model's rate; given stems are the original audio.
        mixture: (B, N), sum of the stems clipped to [-1, 1].
    """

    stems: tuple[str, ...]
    generated: tuple[str, ...]
    latents: Tensor
    log_mels: Tensor
    waveforms: Tensor
    mixture: Tensor


def mix(stems: Tensor) -> Tensor:
    """Mixture (..., N) of stems (..., S, N): their sum clipped to [-1, 1]."""
    return stems.sum(-2).clamp(-1.0, 1.0)


class MultiTrackPipeline:
    """Separate, generate and arrange with one model.

    Args:
        unet: the denoiser.
        first_stage: log-mel, VAE and vocoder.
        schedule: the noise schedule.
        scale_factor: multiplies latents after encoding; a scalar, or one number a latent channel (C, 1, 1).
        settings: the model's description.
    """

    def __init__(
        self,
        unet: nn.Module,
        first_stage: FirstStage,
        schedule: NoiseSchedule,
        scale_factor: Tensor,
        settings: ModelSettings,
    ):
        self.unet, self.first_stage, self.schedule = unet, first_stage, schedule
        self.scale_factor, self.settings = scale_factor, settings

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> MultiTrackPipeline:
        """Load a model for inference; averaged weights where the file has them.

        Args:
            path: checkpoint of this project, or of the published code.
            device: where to put it.

        Raises:
            CheckpointError: the file cannot be used; one line says why.
        """
        from latent_diffusion.checkpoints import load_pipeline_parts

        unet, first_stage, schedule, scale_factor, settings = load_pipeline_parts(path)
        parts = [part.to(device).eval().requires_grad_(False) for part in (unet, first_stage, schedule)]
        return cls(*parts, scale_factor.to(device), settings)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the model's order."""
        return self.settings.stems

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.schedule.alphas_cumprod.device

    # The two ways between waveforms and latents.

    @torch.no_grad()
    def encode(self, waveforms: Tensor, noise: NoiseSource = None) -> tuple[Tensor, Tensor]:
        """Scaled latents of waveforms: a *sample* of the posterior, as published.

        Args:
            waveforms: (..., N) at the model's rate; N a multiple of hop_length * r.
            noise: source of the sample (see `latent_diffusion.noise`); noise itself is (P, C, T/r, F).

        Returns:
            latents (..., C, T/r, F) and log-mels (..., T, M).
        """
        log_mel = self.first_stage.waveform_to_log_mel(waveforms)
        posterior = self.first_stage.log_mel_to_posterior(log_mel)
        z = posterior.sample(noise) * self.scale_factor
        return z.reshape(*waveforms.shape[:-1], *z.shape[1:]), log_mel

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mels (..., T, M) and waveforms (..., T * hop_length) of scaled latents (..., C, T/r, F)."""
        log_mel = self.first_stage.latents_to_log_mel(z / self.scale_factor)
        waveform = self.first_stage.log_mel_to_waveform(log_mel)
        return log_mel, waveform[..., : log_mel.shape[-2] * self.settings.mel.hop_length]

    # The one sampling run that every task goes through.

    @torch.no_grad()
    def run(
        self,
        task: Task,
        mixture: Tensor | None = None,
        stems: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> MultiTrackResult:
        """Carry out a task on a batch of windows.

        Args:
            task: what to do.
            mixture: (B, N), where the task is guided by it.
            stems: (B, S, N), where the task keeps some; the ones to be made are not looked at.
            seeds: one a window (B,). A window's result depends on its own seed, not on the batch it is in.
            sampling: sampler, steps and eta.
            progress: called with (steps done, steps).

        Raises:
            ConfigError: neither one guidance scale nor one a stem.
            DataError: the task needs a mixture or stems and got none.
        """
        s = sampling or SamplingSettings()
        made = task.generated(self.stems)
        mask = task.known_mask(self.stems)
        sources = generators(seeds)
        scales = task.guidance_scale
        if isinstance(scales, Sequence) and len(scales) not in (1, len(self.stems)):
            raise ConfigError(f"guidance scale: found {len(scales)} numbers, expected one or {len(self.stems)}")
        if task.needs_mixture and mixture is None:
            raise DataError(f"{task.name}: a mixture is needed at guidance scale {task.guidance_scale}")
        if mask is not None and stems is None:
            raise DataError(f"{task.name}: the given stems are needed")
        condition = self.encode(mixture.to(self.device), sources)[0] if task.needs_mixture else None
        known = None
        if mask is not None:
            mask = mask.to(self.device)
            stems = stems.to(self.device)
            kept = [i for i, stem in enumerate(self.stems) if stem not in made]
            known = torch.zeros(len(seeds), len(self.stems), *self.latent_shape(stems.shape[-1]), device=self.device)
            for i in kept:
                known[:, i] = self.encode(stems[:, i], sources)[0]
        reference = mixture if mixture is not None else stems
        samples = self.settings.mel.window_samples if reference is None else reference.shape[-1]
        z = sample(
            guided_denoiser(self.unet, condition, task.guidance_scale),
            (len(seeds), len(self.stems), *self.latent_shape(samples)),
            self.schedule,
            sampler=s.sampler,
            steps=s.steps,
            eta=s.eta,
            known=known,
            mask=mask,
            noise=sources,
            progress=progress,
        )
        return self.finish(z, made, stems if mask is not None else None)

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """(C, T/r, F) of a window of `samples`."""
        channels, _, bins = self.settings.latent_shape
        return channels, samples // (self.settings.mel.hop_length * self.settings.autoencoder.reduction), bins

    @torch.no_grad()
    def finish(self, z: Tensor, made: tuple[str, ...], given: Tensor | None) -> MultiTrackResult:
        """Decode sampled latents; given stems (B, S, N) come back as the original audio."""
        indices = [self.stems.index(stem) for stem in made]
        made_log_mels, made_waveforms = self.decode(z[:, indices])
        if given is None:
            log_mels, waveforms = made_log_mels, made_waveforms
        else:
            log_mels, waveforms = self.first_stage.waveform_to_log_mel(given), given.clone()
            log_mels[:, indices], waveforms[:, indices] = made_log_mels, made_waveforms
        return MultiTrackResult(self.stems, made, z, log_mels, waveforms, mix(waveforms))

    # What users call.

    def separate(
        self,
        mixture: Waveform,
        sample_rate: int,
        guidance_scale: Scale = 1.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Take a recording apart.

        Args:
            mixture: (samples,) or (channels, samples), numpy or torch, any length above 0; downmixed to mono.
            sample_rate: hz.
            guidance_scale: above 1 follows the mixture more closely; one number, or one a stem.
            seed: same seed, same stems.
            sampling: sampler, steps, eta, windows at once.
            progress: called with (steps done, steps in all).

        Returns:
            {stem: (1, samples)} at the model's rate, `settings.mel.sample_rate`.

        Raises:
            DataError: empty or not finite.
        """
        mono = self._prepare(mixture, sample_rate, "mixture")
        return self._run_windows(Separation(guidance_scale), mono, None, len(mono), seed, sampling, progress)

    def generate(
        self,
        seconds: float | None = None,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Make all stems from nothing.

        Args:
            seconds: length; None for one window. Every window is made on its own.
            seed, sampling, progress: as in `separate`.

        Returns:
            {stem: (1, samples)} at the model's rate.

        Raises:
            DataError: a length that is not positive and finite.
        """
        mel = self.settings.mel
        length = mel.window_seconds if seconds is None else seconds
        samples = round(length * mel.sample_rate) if math.isfinite(length) else 0
        if samples < 1:
            raise DataError(f"seconds: found {seconds}, expected at least one sample at {mel.sample_rate} hz")
        return self._run_windows(Generation(), None, None, samples, seed, sampling, progress)

    def arrange(
        self,
        stems: Mapping[str, Waveform],
        sample_rate: int,
        generate: str | Iterable[str] | None = None,
        guidance_scale: Scale = 0.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Make the missing stems for given ones.

        Args:
            stems: given stems by name, each (samples,) or (channels, samples).
            sample_rate: hz, of all of them.
            generate: stems to make; None for all that are not given.
            guidance_scale: above 0 the mixture of the given stems guides, too.
            seed, sampling, progress: as in `separate`.

        Returns:
            {stem: (1, samples)} at the model's rate, the given ones unchanged but for rate and channels.

        Raises:
            DataError: unknown stems, unequal lengths, or nothing left to make.
        """
        unknown = [name for name in stems if name not in self.stems]
        if unknown:
            raise DataError(f"given stem {unknown[0]!r} is not one of the model's: {', '.join(self.stems)}")
        generate = (generate,) if isinstance(generate, str) else generate
        made = tuple(generate) if generate is not None else tuple(s for s in self.stems if s not in stems)
        unknown = [name for name in made if name not in self.stems]
        if unknown:
            raise DataError(f"stem to make {unknown[0]!r} is not one of the model's: {', '.join(self.stems)}")
        if not made:
            raise DataError("nothing to make: all stems are given; leave one out, or name the ones to make anew")
        lacking = [name for name in self.stems if name not in stems and name not in made]
        if lacking:
            raise DataError(f"stem {lacking[0]!r} is neither given nor to be made; give it, make it, or give silence")
        given = {name: self._prepare(w, sample_rate, name) for name, w in stems.items() if name not in made}
        lengths = {len(w) for w in given.values()}
        if len(lengths) != 1:
            raise DataError(f"given stems: expected at least one, all of one length, found {sorted(lengths)} samples")
        samples = lengths.pop()
        stacked = torch.stack([given.get(name, torch.zeros(samples)) for name in self.stems])
        task = Arrangement(guidance_scale, generate=made)
        return self._run_windows(task, mix(stacked), stacked, samples, seed, sampling, progress)

    def _prepare(self, waveform: Waveform, sample_rate: int, name: str) -> Tensor:
        """Mono, at the model's rate, finite, (samples,)."""
        x = torch.as_tensor(waveform)
        if not x.is_floating_point():
            raise DataError(f"{name}: found {x.dtype}, expected floating point numbers in [-1, 1]")
        if x.dim() == 2 and 0 < x.shape[1] < x.shape[0]:
            raise DataError(f"{name}: expected (channels, samples), found {tuple(x.shape)}; transpose it")
        x = x.float()
        x = x.mean(0) if x.dim() == 2 and x.numel() else x
        if x.dim() != 1 or not x.numel():
            raise DataError(f"{name}: expected (samples,) or (channels, samples), found shape {tuple(x.shape)}")
        if sample_rate < 1:
            raise DataError(f"{name}: expected a sample rate above 0 hz, found {sample_rate}")
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"{name}: contains values that are not finite")
        return torchaudio.functional.resample(x, sample_rate, self.settings.mel.sample_rate).clamp(-1.0, 1.0)

    def _run_windows(
        self,
        task: Task,
        mixture: Tensor | None,
        stems: Tensor | None,
        samples: int,
        seed: int,
        sampling: SamplingSettings | None,
        progress: Progress | None,
    ) -> dict[str, Tensor]:
        """Cut into windows, run them in batches, join again. mixture (samples,), stems (S, samples)."""
        s = sampling or SamplingSettings()
        window = self.settings.mel.window_samples
        mixtures = None if mixture is None else cut_windows(mixture, window)  # (W, N)
        stem_windows = None if stems is None else cut_windows(stems, window).transpose(0, 1)  # (W, S, N)
        count = -(-samples // window)
        seeds = [seed * 1_000_003 + i for i in range(count)]
        parts: list[Tensor] = []
        for start in range(0, count, s.batch_size):
            chosen = slice(start, start + s.batch_size)

            def report(done: int, steps: int, start: int = start) -> None:
                if progress:
                    batches = -(-count // s.batch_size)
                    progress(start // s.batch_size * steps + done, batches * steps)

            result = self.run(
                task,
                mixture=None if mixtures is None else mixtures[chosen],
                stems=None if stem_windows is None else stem_windows[chosen],
                seeds=seeds[chosen],
                sampling=s,
                progress=report,
            )
            parts.append(result.waveforms.cpu())
        joined = join_windows(torch.cat(parts), samples)  # (S, samples)
        return {name: joined[i : i + 1] for i, name in enumerate(self.stems)}
