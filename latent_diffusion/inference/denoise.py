"""From waveforms to latents and back, and the sampling run between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from latent_diffusion.diffusion import NoiseSchedule, guided_denoiser, sample
from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.diffusion.samplers import Denoiser, Progress
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.first_stage import DiagonalGaussian, FirstStage
from latent_diffusion.inference.masks import mask_mixture
from latent_diffusion.inference.results import POSTERIOR_MEAN, PRECISIONS, MultiTrackResult, SamplingSettings, mix
from latent_diffusion.inference.windows import Windows, blended_denoiser
from latent_diffusion.noise import NoiseSource, generators, randn
from latent_diffusion.plan import Plan
from latent_diffusion.settings import ModelSettings, StemTransformerSettings
from latent_diffusion.tasks import MASK_ROUNDS, Separation, Task

DEFAULT_OVERLAP = SamplingSettings.overlap
PASS_LEVEL = 0.5  # how far up the schedule a further pass begins: loud enough to undo errors, not to forget the stems


class LatentPipeline:
    """Runs one model on batches of waveforms at its own rate. What is longer than a window is blended from windows.

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
    def vocode(
        self, log_mel: Tensor, overlap: float = DEFAULT_OVERLAP, on_vocoded: Callable[[int], None] | None = None
    ) -> Tensor:
        """Waveforms (..., T * hop_length) of log-mels (..., T, M), blended from windows where there are several.

        `on_vocoded` is called with a number of windows each time that so many are done.
        """
        tell, count = on_vocoded or (lambda windows: None), math.prod(log_mel.shape[:-2])
        r, hop = self.settings.autoencoder.reduction, self.settings.mel.hop_length
        windows = self.windows(log_mel.shape[-2] // r, overlap)
        if windows is None:
            waveform = self.first_stage.log_mel_to_waveform(log_mel)[..., : log_mel.shape[-2] * hop]
            tell(count)
            return waveform
        windows = windows.scaled(r)
        cut = windows.cut(log_mel.reshape(-1, *log_mel.shape[-2:]))  # (P, W, T, M)
        samples = windows.window * hop
        parts = []
        for part in cut.unbind(1):
            parts.append(self.first_stage.log_mel_to_waveform(part)[..., :samples])
            tell(count)
        blended = windows.scaled(hop).blend(torch.stack(parts, dim=1), axis=-1)
        return blended.reshape(*log_mel.shape[:-2], -1)

    def decode(self, z: Tensor, overlap: float = DEFAULT_OVERLAP) -> tuple[Tensor, Tensor]:
        """Log-mels (..., T, M) and waveforms (..., T * hop_length) of scaled latents (..., C, T/r, F)."""
        log_mel = self.decode_log_mels(z, overlap)
        return log_mel, self.vocode(log_mel, overlap)

    # The one sampling run that every task goes through.

    @torch.no_grad()
    def denoise(
        self,
        task: Task,
        mixture: Tensor | None = None,
        stems: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        head: Tensor | None = None,
        on_batch: Callable[[], None] | None = None,
        starts: Sequence[int] | None = None,
    ) -> Tensor:
        """Sample the latents of a task; arguments as in `run`, without averaging, and

        Args:
            head: (B, S, C, H, F), latents that the stems to be made begin with: what comes after goes on from them.
            on_batch: called after each prediction for some windows, where N is longer than one.
            starts: latent frame of the plan that each item (B,) begins with; None for 0.

        Returns:
            (B, S, C, T/r, F), scaled.
        """
        s = sampling or SamplingSettings()
        made = task.generated(self.stems)
        kept_mask = task.known_mask(self.stems)
        sources = generators(seeds)
        scales = task.guidance_scale
        if isinstance(scales, Sequence) and len(scales) not in (1, len(self.stems)):
            raise ConfigError(f"guidance scale: found {len(scales)} numbers, expected one or {len(self.stems)}")
        self._check_separation_settings(task, s)
        if task.needs_mixture and mixture is None:
            raise DataError(f"{task.name}: a mixture is needed at guidance scale {task.guidance_scale}")
        if kept_mask is not None and stems is None:
            raise DataError(f"{task.name}: the given stems are needed")
        condition = self.encode(mixture.to(self.device), sources, s.overlap)[0] if task.needs_mixture else None
        reference = mixture if mixture is not None else stems
        samples = self.settings.mel.window_samples if reference is None else reference.shape[-1]
        shape = (len(seeds), len(self.stems), *self.latent_shape(samples))
        known = mask = given = None
        if kept_mask is not None or head is not None:
            known = torch.zeros(shape, device=self.device)
            mask = torch.zeros(1, shape[1], 1, shape[3], 1, device=self.device)
        if kept_mask is not None:
            stems = stems.to(self.device)
            mask += kept_mask.to(self.device)
            if isinstance(self.settings.unet, StemTransformerSettings):
                given = kept_mask.flatten().bool().to(self.device)
            for i in [i for i, stem in enumerate(self.stems) if stem not in made]:
                known[:, i] = self.encode(stems[:, i], sources, s.overlap)[0]
        if head is not None:
            head = head.to(self.device)
            for i in [self.stems.index(stem) for stem in made]:
                known[:, i, :, : head.shape[-2]] = head[:, i]
                mask[:, i, :, : head.shape[-2]] = 1.0
        windows = self.windows(shape[3], s.overlap)
        if windows is None and len(seeds) > s.batch_size and s.average > 1:
            windows = Windows(shape[3], shape[3], 0)

        told = Condition(condition, self._plan_rows(task, shape, starts), given)
        if condition is None and told.plan is not None:
            scales = task.plan_scale

        def guided(told: Condition) -> Denoiser:
            unet = _in_precision(self.unet, s.precision)
            return guided_denoiser(unet, told, scales, tuple(s.guidance_interval), self.schedule.num_timesteps)

        if windows is None:
            denoiser = guided(told)
        else:
            denoiser = blended_denoiser(lambda z, t, c: guided(c)(z, t), told, windows, s.batch_size, on_batch)
        how = {"sampler": s.sampler, "steps": s.steps, "eta": s.eta, "spacing": s.spacing}
        if s.sampler == POSTERIOR_MEAN:  # the last timestep's guess of z0, without noise
            how = {"sampler": "ddim", "steps": 1, "eta": 0.0, "spacing": "trailing"}
        z = sample(
            denoiser, shape, self.schedule, **how, known=known, mask=mask, noise=sources, progress=progress, given=given
        )
        for done in range(1, s.passes):
            z = torch.lerp(z, self._look_again(z, mixture, denoiser, sources, s), 1 / (done + 1))  # the mean of all
            if progress:
                progress(s.calls - s.passes + done + 1, s.calls)
        return z

    def _plan_rows(self, task: Task, shape: tuple[int, ...], starts: Sequence[int] | None) -> Tensor | None:
        """The task's plan for items of a shape (B, S, C, T, F): (B, P, T), or None."""
        if task.plan is None:
            return None
        if not isinstance(self.settings.unet, StemTransformerSettings):
            raise ConfigError("plan: the model's network takes none; use a StemTransformer, or no tempo and no chords")
        seconds = self.latent_hop / self.settings.mel.sample_rate
        places = np.asarray([0] * shape[0] if starts is None else starts)[:, None] + np.arange(shape[3]) + 0.5
        plans = [task.plan] * shape[0] if isinstance(task.plan, Plan) else task.plan
        rows = np.stack([plan.rows(times * seconds) for plan, times in zip(plans, places, strict=True)])
        return torch.from_numpy(rows).to(self.device)

    def _check_separation_settings(self, task: Task, sampling: SamplingSettings) -> None:
        """Raises ConfigError for settings that only make sense for a separation, or not for this network."""
        if task.name != "separation":
            for name in ("average", "passes"):
                if getattr(sampling, name) > 1:
                    raise ConfigError(
                        f"{name}: found {getattr(sampling, name)}, expected 1: {task.name} has one result"
                    )
        if sampling.sampler == POSTERIOR_MEAN:
            if task.name != "separation":
                raise ConfigError(f"sampler {POSTERIOR_MEAN!r}: for separation; the mean of all music is no music")
            if self.schedule.settings.parameterization == "eps":
                raise ConfigError(
                    f"sampler {POSTERIOR_MEAN!r}: the model predicts noise, expected x0 or v; use another"
                )

    def _look_again(
        self, z: Tensor, mixture: Tensor, denoiser: Callable, sources: Sequence[Generator], s: SamplingSettings
    ) -> Tensor:
        """One further pass of a separation (see `SamplingSettings.passes`): latents (B, S, C, T/r, F) -> the same."""
        copies = s.average if s.sampler == POSTERIOR_MEAN else 1  # of one expectation, better taken together
        log_mels = self.decode_log_mels(average(z, copies), s.overlap)
        cut = self._cut_out(mixture[::copies], log_mels, s.mask_exponent)
        clean = torch.stack([self.encode(stem, sources[::copies], s.overlap)[0] for stem in cut.unbind(1)], dim=1)
        clean = clean.repeat_interleave(copies, 0)
        t = torch.full((len(z),), round(PASS_LEVEL * (self.schedule.num_timesteps - 1)), device=self.device)
        z_t = self.schedule.add_noise(clean, randn(clean.shape, sources, clean), t)
        return self.schedule.predict_z0(z_t, denoiser(z_t, t), t)

    def run(
        self,
        task: Task,
        mixture: Tensor | None = None,
        stems: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> MultiTrackResult:
        """Carry out a task on a batch.

        Args:
            task: what to do.
            mixture: (B, N), where the task is guided by it. N is a window, or more and a multiple of hop_length * r.
            stems: (B, S, N), where the task keeps some; the ones to be made are not looked at.
            seeds: one an item (B,). An item's result depends on its own seed, not on the batch it is in.
            sampling: how to sample.
            progress: called with (steps done, steps).

        Raises:
            ConfigError: neither one guidance scale nor one a stem.
            DataError: the task needs a mixture or stems and got none.
        """
        s = sampling or SamplingSettings()
        if s.average > 1:
            mixture = None if mixture is None else mixture.repeat_interleave(s.average, 0)
            seeds = [seed + 1_000_003 * copy for seed in seeds for copy in range(s.average)]
        z = self.denoise(task, mixture, stems, seeds, s, progress)
        made = task.generated(self.stems)
        given = stems.to(self.device) if len(made) < len(self.stems) else None
        if not (isinstance(task, Separation) and task.refine == "mask"):
            return self.finish(z, made, given, s)
        log_mels = self.averaged_log_mels(z, s)
        how = task.exponent(s.mask_exponent), task.mask_rounds
        waveforms = self._cut_out(mixture[:: s.average], log_mels, *how)
        return MultiTrackResult(self.stems, made, average(z, s.average), log_mels, waveforms, mix(waveforms))

    def _cut_out(self, mixture: Tensor, log_mels: Tensor, exponent: float, rounds: int = MASK_ROUNDS) -> Tensor:
        """Mixtures (B, N) taken apart by their stems' log-mels (B, S, T, M): (B, S, N)."""
        mel, pairs = self.settings.mel, zip(mixture.cpu(), log_mels.cpu(), strict=True)
        cut = [mask_mixture(one[None], mel.sample_rate, by, mel, exponent, rounds)[:, 0] for one, by in pairs]
        return torch.stack(cut).to(self.device)

    @torch.no_grad()
    def finish(
        self,
        z: Tensor,
        made: tuple[str, ...],
        given: Tensor | None,
        sampling: SamplingSettings | None = None,
        on_vocoded: Callable[[int], None] | None = None,
    ) -> MultiTrackResult:
        """Decode sampled latents (B * average, S, C, T/r, F); given stems (B, S, N) come back as the original audio.

        `on_vocoded` as in `vocode`.
        """
        s = sampling or SamplingSettings()
        indices, overlap = [self.stems.index(stem) for stem in made], s.overlap
        made_log_mels = self.averaged_log_mels(z[:, indices], s)
        made_waveforms = self.vocode(made_log_mels, overlap, on_vocoded)
        if given is None:
            log_mels, waveforms = made_log_mels, made_waveforms
        else:
            log_mels, waveforms = self.first_stage.waveform_to_log_mel(given), given.clone()
            log_mels[:, indices], waveforms[:, indices] = made_log_mels, made_waveforms
        return MultiTrackResult(self.stems, made, average(z, s.average), log_mels, waveforms, mix(waveforms))


def average(x: Tensor, copies: int) -> Tensor:
    """Means of neighbouring items: (B * copies, ...) -> (B, ...)."""
    return x if copies == 1 else x.unflatten(0, (-1, copies)).mean(1)


def _in_precision(unet: nn.Module, precision: str) -> Callable[..., Tensor]:
    """The network with its matrix products and convolutions in a precision; input and output keep theirs."""
    if precision == "float32":
        return unet

    def call(z: Tensor, *told: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, PRECISIONS[precision]):
            return unet(z, *told).to(z.dtype)

    return call
