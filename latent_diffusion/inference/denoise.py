"""The one sampling run that every task goes through: from noise to the latents of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from latent_diffusion.diffusion import guided_denoiser, sample
from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.diffusion.samplers import Denoiser
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference.codec import LatentCodec, average
from latent_diffusion.inference.counter import Counter
from latent_diffusion.inference.masks import mask_mixtures
from latent_diffusion.inference.results import POSTERIOR_MEAN, PRECISIONS, SamplingSettings
from latent_diffusion.inference.windows import Windows, blended_denoiser
from latent_diffusion.noise import generators, randn
from latent_diffusion.plan import Plan
from latent_diffusion.settings import StemTransformerSettings
from latent_diffusion.tasks import Task

PASS_LEVEL = 0.5  # how far up the schedule a further pass begins: loud enough to undo errors, not to forget the stems


@dataclass(frozen=True)
class Batch:
    """Items of one length that are sampled together: windows of a data set, or a section of a piece.

    Args:
        task: what to make of each.
        seeds: one per item and averaged result (B * average,), an item's side by side (see `seeds`). A result depends
            on its own seed, not on the batch it is in.
        mixture: (B, N), where the task is guided by it. N is a window, or more and a multiple of hop_length * r.
        stems: (B, S, N), where the task keeps some; the ones to be made are not looked at.
        samples: N, where there is neither mixture nor stems; None for a window.
        head: (B * average, S, C, H, F), latents that the stems to be made begin with: what comes after goes on from
            them. They come back close to what they were, not equal.
        starts: latent frame of the task's plan that each item (B,) begins with; None for 0.
    """

    task: Task
    seeds: Sequence[int] = (0,)
    mixture: Tensor | None = None
    stems: Tensor | None = None
    samples: int | None = None
    head: Tensor | None = None
    starts: Sequence[int] | None = None


class Denoising:
    """One batch on its way from noise to latents: what the network is told, what is kept, the random numbers.

    Args:
        codec: the model.
        batch: what to make.
        sampling: how.

    Raises:
        ConfigError: settings that have no meaning for the task or the network; neither one guidance scale nor one per
            stem.
        DataError: the task needs a mixture or stems and got none.
    """

    def __init__(self, codec: LatentCodec, batch: Batch, sampling: SamplingSettings):
        check_batch(codec, batch, sampling)
        self.codec, self.batch, self.sampling = codec, batch, sampling
        self.counter = Counter()
        self.sources = generators(batch.seeds)
        reference = batch.mixture if batch.mixture is not None else batch.stems
        samples = batch.samples or codec.settings.mel.window_samples
        samples = samples if reference is None else reference.shape[-1]
        self.shape = (len(batch.seeds), len(codec.stems), *codec.latent_shape(samples))
        self.windows = codec.windows(self.shape[3], sampling.overlap)
        if self.windows is None and self.shape[0] > sampling.batch_size and sampling.average > 1:
            self.windows = Windows(self.shape[3], self.shape[3], 0)
        mixture = self._mixture_latents()  # random numbers are drawn for the mixture first, then for the stems
        self.known, self.mask, self.given = self._known()
        self.condition = Condition(mixture, self._plan_rows(), self.given)
        by_plan = mixture is None and self.condition.plan is not None
        self.scales = batch.task.plan_scale if by_plan else batch.task.guidance_scale
        self.network = _in_precision(codec.unet, sampling.precision)

    @property
    def calls(self) -> int:
        """Network calls of the whole run."""
        s, items = self.sampling, self.shape[0]
        return s.calls * (1 if self.windows is None else s.batches(items * len(self.windows)))

    @torch.no_grad()
    def run(self, counter: Counter | None = None) -> Tensor:
        """Sample. Returns latents (B * average, S, C, T/r, F), scaled; `counter` counts a stage of network calls."""
        s, self.counter = self.sampling, counter or Counter()
        self.counter.stage(self.calls)
        how = {"sampler": s.sampler, "steps": s.steps, "eta": s.eta, "spacing": s.spacing}
        if s.sampler == POSTERIOR_MEAN:  # the last timestep's guess of z0, without noise
            how = {"sampler": "ddim", "steps": 1, "eta": 0.0, "spacing": "trailing"}
        kept = {"known": self.known, "mask": self.mask, "given": self.given}
        denoiser = self._denoiser()  # not kept: it holds this object, and memory would wait for the garbage collector
        z = sample(denoiser, self.shape, self.codec.schedule, **how, **kept, noise=self.sources)
        for done in range(1, s.passes):
            z = torch.lerp(z, self._look_again(z, denoiser), 1 / (done + 1))  # the mean of all
        return z

    def _mixture_latents(self) -> Tensor | None:
        """What the mixture guides by, (B * average, C, T/r, F); None where it does not."""
        if not self.batch.task.needs_mixture:
            return None
        mixture = self.batch.mixture.to(self.codec.device).repeat_interleave(self.sampling.average, 0)
        return self.codec.encode(mixture, self.sources, self.sampling.overlap)[0]

    def _known(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Latents that are kept, where they are (1, S, 1, T/r, 1), and stems (S,) that come without noise, if any."""
        codec, head, device = self.codec, self.batch.head, self.codec.device
        kept, made = self.batch.task.known_mask(codec.stems), self.batch.task.generated(codec.stems)
        if kept is None and head is None:
            return None, None, None
        known = torch.zeros(self.shape, device=device)
        mask = torch.zeros(1, self.shape[1], 1, self.shape[3], 1, device=device)
        given = None
        if kept is not None:
            stems = self.batch.stems.to(device)
            mask += kept.to(device)
            if isinstance(codec.settings.unet, StemTransformerSettings):
                given = kept.flatten().bool().to(device)
            for i in [i for i, stem in enumerate(codec.stems) if stem not in made]:
                known[:, i] = codec.encode(stems[:, i], self.sources, self.sampling.overlap)[0]
        if head is not None:
            for i in [codec.stems.index(stem) for stem in made]:
                known[:, i, :, : head.shape[-2]] = head[:, i].to(device)
                mask[:, i, :, : head.shape[-2]] = 1.0
        return known, mask, given

    def _plan_rows(self) -> Tensor | None:
        """The task's plan for each item, (B, P, T/r), or None."""
        task, codec = self.batch.task, self.codec
        if task.plan is None:
            return None
        if not isinstance(codec.settings.unet, StemTransformerSettings):
            raise ConfigError("plan: the model's network takes none; use a StemTransformer, or no tempo and no chords")
        items, frames = self.shape[0], self.shape[3]
        starts = [0] * items if self.batch.starts is None else self.batch.starts
        seconds = (np.asarray(starts)[:, None] + np.arange(frames) + 0.5) * (
            codec.latent_hop / codec.settings.mel.sample_rate
        )
        plans = [task.plan] * items if isinstance(task.plan, Plan) else task.plan
        rows = np.stack([plan.rows(times) for plan, times in zip(plans, seconds, strict=True)])
        return torch.from_numpy(rows).to(codec.device)

    def _denoiser(self) -> Denoiser:
        """The network on the whole length, from one window or blended from several."""
        if self.windows is None:
            return lambda z, t: self._call(z, t, self.condition)
        return blended_denoiser(self._call, self.condition, self.windows, self.sampling.batch_size)

    def _call(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """One network call, which is counted; with guidance it holds both branches."""
        interval = tuple(self.sampling.guidance_interval)
        timesteps = self.codec.schedule.num_timesteps
        output = guided_denoiser(self.network, condition, self.scales, interval, timesteps)(z, t)
        self.counter.tick()
        return output

    def _look_again(self, z: Tensor, denoiser: Denoiser) -> Tensor:
        """One further pass of a separation (see `SamplingSettings.passes`): latents (B * average, ...) -> the same."""
        s, codec, masks = self.sampling, self.codec, self.batch.task.masks
        copies = s.average if s.sampler == POSTERIOR_MEAN else 1  # of one expectation, better taken together
        mixture = self.batch.mixture.repeat_interleave(s.average // copies, 0)
        log_mels, sources = codec.decode_log_mels(average(z, copies), s.overlap), self.sources[::copies]
        how = masks.exponent_or(s.mask_exponent), masks.rounds
        cut = mask_mixtures(mixture, log_mels, codec.settings.mel, *how).to(codec.device)
        clean = torch.stack([codec.encode(stem, sources, s.overlap)[0] for stem in cut.unbind(1)], dim=1)
        clean = clean.repeat_interleave(copies, 0)
        t = torch.full((len(z),), round(PASS_LEVEL * (codec.schedule.num_timesteps - 1)), device=codec.device)
        z_t = codec.schedule.add_noise(clean, randn(clean.shape, self.sources, clean), t)
        return codec.schedule.predict_z0(z_t, denoiser(z_t, t), t)


def check_batch(codec: LatentCodec, batch: Batch, sampling: SamplingSettings) -> None:
    """Raises ConfigError or DataError for what does not fit together; see `Denoising`."""
    task, scales = batch.task, batch.task.guidance_scale
    kept = task.known_mask(codec.stems)
    if isinstance(scales, Sequence) and len(scales) not in (1, len(codec.stems)):
        raise ConfigError(f"guidance scale: found {len(scales)} numbers, expected one or {len(codec.stems)}")
    if task.name != "separation":
        for name in ("average", "passes"):
            if getattr(sampling, name) > 1:
                raise ConfigError(f"{name}: found {getattr(sampling, name)}, expected 1: {task.name} has one result")
    if sampling.sampler == POSTERIOR_MEAN:
        if task.name != "separation":
            raise ConfigError(f"sampler {POSTERIOR_MEAN!r}: for separation; the mean of all music is no music")
        if codec.schedule.settings.parameterization == "eps":
            raise ConfigError(f"sampler {POSTERIOR_MEAN!r}: the model predicts noise, expected x0 or v; use another")
    if task.needs_mixture and batch.mixture is None:
        raise DataError(f"{task.name}: a mixture is needed at guidance scale {task.guidance_scale}")
    if kept is not None and batch.stems is None:
        raise DataError(f"{task.name}: the given stems are needed")


def _in_precision(unet: nn.Module, precision: str) -> Callable[..., Tensor]:
    """The network with its matrix products and convolutions in a precision; input and output keep theirs."""
    if precision == "float32":
        return unet

    def call(z: Tensor, *told: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, PRECISIONS[precision]):
            return unet(z, *told).to(z.dtype)

    return call
