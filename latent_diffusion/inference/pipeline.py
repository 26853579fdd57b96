"""Waveforms in, stems out: what users call."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent_diffusion.checkpoints import load_pipeline_parts
from latent_diffusion.diffusion.guidance import Scale
from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference.codec import LatentCodec, average
from latent_diffusion.inference.continuation import go_on
from latent_diffusion.inference.counter import Counter
from latent_diffusion.inference.denoise import Batch, Denoising
from latent_diffusion.inference.hearing import AudioSource, MonoSource, level_of
from latent_diffusion.inference.inputs import ArraySource, Waveform, resolve_guidance
from latent_diffusion.inference.masks import MaskFilter, filter_stream, mask_mixtures
from latent_diffusion.inference.results import (
    MEAN_AVERAGE,
    MEAN_PASSES,
    POSTERIOR_MEAN,
    MultiTrackResult,
    SamplingSettings,
    mix,
)
from latent_diffusion.inference.sections import Job, SectionRun
from latent_diffusion.inference.seeds import item_seeds
from latent_diffusion.models import find_checkpoint
from latent_diffusion.plan import Plan, drawn_plan
from latent_diffusion.settings import StemTransformerSettings
from latent_diffusion.tasks import Arrangement, Generation, MaskSettings, Separation, Task

Guidance = Scale | Mapping[str, float]
LONGEST = 7 * 24 * 3600  # seconds that can be made: more is a slip of the finger, and would be planned for ever
UNEVEN = 0.1  # seconds that given stems may differ in length, the ends being silence: lossy formats add as much


class MultiTrackPipeline(LatentCodec):
    """Separate, generate and arrange with one model.

    `separate`, `generate` and `arrange` take and give whole waveforms; `stream_*` read and give them piece by piece,
    in memory that does not grow with their length; `run` takes a batch of a data set.
    """

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> MultiTrackPipeline:
        """Load a model for inference; averaged weights where the file has them.

        Args:
            path: checkpoint of this project, or of the published code; the folder of a run; or the name of a model
                that comes along, such as "quickstart", as text.
            device: where to put it; "auto" takes a GPU where there is one.

        Raises:
            CheckpointError: the file cannot be used; one line says why.
        """
        _check_default_dtype()
        device = _device(device)
        unet, first_stage, schedule, scale, mean, settings = load_pipeline_parts(find_checkpoint(path, "model"))
        parts = [part.to(device).eval().requires_grad_(False) for part in (unet, first_stage, schedule)]
        if torch.device(device).type == "cpu":  # the VAE's convolutions take about two thirds of the time so
            parts[1].to(memory_format=torch.channels_last)
        return cls(*parts, scale.to(device), settings, mean.to(device))

    def suited_sampling(self, refine: str = "none", **asked: Any) -> SamplingSettings:
        """What is sampled with, where nothing else is asked for. Here the defaults of command and Python are said.

        Masks want the expected stems, and get them where the network can say them; what is to be heard itself is
        sampled by deterministic DDIM.

        Args:
            refine: "mask" or "none", as in `separate`.
            asked: fields of `SamplingSettings` that the user gave.

        Raises:
            ConfigError: something was asked for that has no effect with the sampler.
        """
        expects = refine == "mask" and self.schedule.settings.parameterization != "eps"
        sampler = asked.pop("sampler", POSTERIOR_MEAN if expects else "ddim")
        if sampler == POSTERIOR_MEAN:
            for name in ("steps", "eta", "spacing"):
                if name in asked:
                    raise ConfigError(
                        f"{name}: found {asked[name]}, but the sampler {POSTERIOR_MEAN} takes its one call at the last "
                        f"timestep; leave {name} out, or choose another sampler"
                    )
            return replace(SamplingSettings(POSTERIOR_MEAN, average=MEAN_AVERAGE, passes=MEAN_PASSES), **asked)
        suited = SamplingSettings(sampler, steps=50, eta=0.0)
        if isinstance(self.settings.unet, StemTransformerSettings):
            suited = replace(suited, steps=25, spacing="trailing" if sampler == "ddim" else None)
        return replace(suited, **asked)

    # Whole waveforms.

    def separate(
        self,
        mixture: Waveform,
        sample_rate: int,
        *,
        guidance: Guidance = 1.0,
        masks: MaskSettings = MaskSettings(),
        sampling: SamplingSettings | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Take a recording apart.

        Args:
            mixture: (samples,) or (channels, samples), numpy or torch, any length above 0 and of any level. The model
                hears it mono and at the level of its training; the stems are as loud as the mixture.
            sample_rate: hz, any.
            guidance: above 1 follows the mixture more closely; one number, one per stem, or {stem: number}, where stems
                that are not named have 1.
            masks: how the stems are cut out of the mixture. With refine "none" the vocoder makes them instead.
            sampling: sampler, steps, eta, windows at once, overlap, results averaged, passes; None: `suited_sampling`.
            seed: same seed, same stems; another batch size only rounds otherwise.
            progress: called with (done, in all): network calls, and blocks of the masks or windows of the vocoder.

        Returns:
            {stem: waveform}: with "mask" (channels, samples) as the mixture and at its rate, with "none" (1, samples)
            at the model's rate, `settings.mel.sample_rate`.

        Raises:
            ConfigError: unknown stem, or a guidance scale of 0 for all stems.
            DataError: empty or not finite.
        """
        source = ArraySource(mixture, sample_rate, "mixture")
        return self._collect(
            self.stream_separate(
                source, guidance=guidance, masks=masks, sampling=sampling, seed=seed, progress=progress
            )
        )

    def generate(
        self,
        seconds: float | None = None,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        continue_from: Waveform | Mapping[str, Waveform] | None = None,
        sample_rate: int | None = None,
        plan: Plan | None = None,
    ) -> dict[str, Tensor]:
        """Make all stems from nothing, or go on from a recording.

        Args:
            seconds: length of what is made; None for one window.
            seed, sampling, progress: as in `separate`.
            continue_from: what to go on from: all stems by name, or a mixture, which is separated first. The result
                begins with them, as the model hears them.
            sample_rate: of `continue_from`, hz.
            plan: tempo and chords to follow; `Plan()` leaves both free. None draws them from the seed where the network
                takes a plan and nothing is continued.

        Returns:
            {stem: (1, samples)} at the model's rate.

        Raises:
            DataError: a length that is not positive, finite and below a week; stems that are missing or unequally long.
        """
        given: AudioSource | dict[str, AudioSource] | None = None
        if continue_from is not None and sample_rate is None:
            raise DataError("sample_rate: expected that of continue_from, found none")
        if isinstance(continue_from, Mapping):
            given = {name: ArraySource(x, sample_rate, name) for name, x in continue_from.items()}
        elif continue_from is not None:
            given = ArraySource(continue_from, sample_rate, "continue_from")
        return self._collect(self.stream_generate(seconds, seed, sampling, progress, given, plan))

    def arrange(
        self,
        stems: Mapping[str, Waveform],
        sample_rate: int,
        generate: str | Iterable[str] | None = None,
        guidance: Guidance = 0.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        plan: Plan | None = None,
    ) -> dict[str, Tensor]:
        """Make the missing stems for given ones.

        Args:
            stems: given stems by name, each (samples,) or (channels, samples).
            sample_rate: hz, of all of them.
            generate: stems to make; None for all that are not given.
            guidance: above 0 the mixture of the given stems guides, too; stems that are not named have 0.
            seed, sampling, progress: as in `separate`.
            plan: the given stems' tempo and chords, where they are known; None leaves them to the model's ear.

        Returns:
            {stem: (1, samples)} at the model's rate, the given ones unchanged but for rate and channels (mono); those
            that are made are as loud as suits them.

        Raises:
            DataError: unknown stems, unequal lengths, or nothing left to make.
        """
        made = self._stems_to_make(stems, generate)
        sources = {name: ArraySource(x, sample_rate, name) for name, x in stems.items() if name not in made}
        return self._collect(self.stream_arrange(sources, made, guidance, seed, sampling, progress, plan))

    # Batches of a data set.

    def run(
        self,
        task: Task,
        mixture: Tensor | None = None,
        stems: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> MultiTrackResult:
        """Carry out a task on a batch of waveforms at the model's rate, which are taken as they are.

        Args:
            task: what to do.
            mixture: (B, N), where the task is guided by it. N is a window, or more and a multiple of hop_length * r.
            stems: (B, S, N), where the task keeps some; the ones to be made are not looked at.
            seeds: one per item (B,). An item's result depends on its own seed, not on the batch it is in.
            sampling: how to sample.
            progress: called with (done, in all): network calls, and masked items or windows of the vocoder.

        Raises:
            ConfigError: neither one guidance scale nor one per stem.
            DataError: the task needs a mixture or stems and got none.
        """
        s = sampling or SamplingSettings()
        run = Denoising(self, Batch(task, item_seeds(seeds, s.average), mixture, stems), s)
        masks = task.masks if isinstance(task, Separation) and task.masks.refine == "mask" else None
        made, windows = task.generated(self.stems), 1 if run.windows is None else len(run.windows)
        counter = Counter(run.calls + len(seeds) * (1 if masks else len(made) * windows), progress)
        z = run.run(counter)
        if masks is None:
            given = stems.to(self.device) if len(made) < len(self.stems) else None
            return self.finish(z, made, given, s, counter)
        log_mels = self.averaged_log_mels(z, s)
        how = masks.exponent_or(s.mask_exponent), masks.rounds
        waveforms = mask_mixtures(mixture, log_mels, self.settings.mel, *how).to(self.device)
        counter.stage(len(seeds))
        counter.tick(len(seeds))
        return MultiTrackResult(self.stems, made, average(z, s.average), log_mels, waveforms, mix(waveforms))

    # Piece by piece.

    def stream_separate(
        self,
        source: AudioSource,
        *,
        guidance: Guidance = 1.0,
        masks: MaskSettings = MaskSettings(),
        sampling: SamplingSettings | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """As `separate`, from an `AudioSource`; yields (S, channels, n), one after the other."""
        s, mel = sampling or self.suited_sampling(masks.refine), self.settings.mel
        seed = checked_seed(seed)
        mono = MonoSource(source, mel.sample_rate)
        level = level_of(mono.read, mono.samples, mono.sample_rate)

        def read(start: int, count: int) -> Tensor:
            return (mono.read(start, count)[0] / level).clamp(-1, 1)

        task = Separation(resolve_guidance(guidance, self.stems, 1.0), masks)
        job = Job(task, mono.samples, read, None, seed)
        if masks.refine == "none":
            return (piece * level for piece in self._stream(job, s, progress))
        run = SectionRun(self, job, s, waveforms=False)
        masker = MaskFilter(mel, source.sample_rate, masks.exponent_or(s.mask_exponent), masks.rounds)
        blocks = -(-source.samples // masker.block_samples)
        counter = Counter(run.work + blocks, progress)
        stems = filter_stream(source.read, source.samples, run.pieces(counter), masker)
        return counter.passing(stems, source.samples, blocks)

    def stream_generate(
        self,
        seconds: float | None = None,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        continue_from: AudioSource | Mapping[str, AudioSource] | None = None,
        plan: Plan | None = None,
    ) -> Iterator[Tensor]:
        """As `generate`; yields (S, 1, n), one after the other. `progress` counts a separation on its own, before."""
        s, samples, seed = sampling or self.suited_sampling(), self.samples_of(seconds), checked_seed(seed)
        if continue_from is not None:
            if plan is not None:
                raise ConfigError("plan: found beside continue_from, which has a beat of its own; leave one out")
            recording = self._recording(continue_from, seed, s, progress)
            return go_on(self, recording, samples, seed, s, progress)
        job = Job(Generation(plan=self.plan_for(plan, seed)), samples, None, None, seed)
        return self._stream(job, s, progress)

    def plan_for(self, plan: Plan | None, seed: int) -> Plan | None:
        """What a generation follows: the plan asked for, else one drawn from the seed, if the network takes any."""
        if plan is None and isinstance(self.settings.unet, StemTransformerSettings):
            return drawn_plan(seed)
        return None if plan == Plan() else plan

    def samples_of(self, seconds: float | None) -> int:
        """Length of what is made in samples at the model's rate; None means one window.

        Raises:
            DataError: less than a sample, more than a week, or no number.
        """
        mel = self.settings.mel
        length = mel.window_seconds if seconds is None else seconds
        samples = round(length * mel.sample_rate) if math.isfinite(length) and length <= LONGEST else 0
        if samples < 1:
            raise DataError(
                f"seconds: found {seconds}, expected at least one sample at {mel.sample_rate} hz, and {LONGEST} at most"
            )
        return samples

    def _recording(
        self, given: AudioSource | Mapping[str, AudioSource], seed: int, sampling: SamplingSettings, progress: Progress
    ) -> Iterator[Tensor]:
        """The stems (S, 1, n) of what is gone on from, at the model's rate."""
        rate = self.settings.mel.sample_rate
        if not isinstance(given, Mapping):
            suited = self.suited_sampling("mask")
            if suited.sampler == POSTERIOR_MEAN:
                sampling = replace(sampling, sampler=suited.sampler, average=suited.average, passes=suited.passes)
            return self.stream_separate(MonoSource(given, rate), sampling=sampling, seed=seed, progress=progress)
        if set(given) != set(self.stems):
            raise DataError(
                f"stems to go on from: found {', '.join(given) or 'none'}, expected all of {', '.join(self.stems)}; "
                "arrange the missing ones first, or give silence"
            )
        sources = {name: MonoSource(given[name], rate) for name in self.stems}
        samples = _one_length(sources)
        block = self.settings.mel.window_samples
        return (
            torch.stack([source.read(start, min(block, samples - start)) for source in sources.values()])
            for start in range(0, samples, block)
        )

    def stream_arrange(
        self,
        sources: Mapping[str, AudioSource],
        generate: str | Iterable[str] | None = None,
        guidance: Guidance = 0.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        plan: Plan | None = None,
    ) -> Iterator[Tensor]:
        """As `arrange`, from an `AudioSource` for each given stem; yields (S, 1, n), one after the other."""
        s, rate, seed = sampling or self.suited_sampling(), self.settings.mel.sample_rate, checked_seed(seed)
        made = self._stems_to_make(sources, generate)
        given = {name: MonoSource(source, rate) for name, source in sources.items() if name not in made}
        samples = _one_length(given)
        level = level_of(lambda start, count: sum(x.read(start, count) for x in given.values()), samples, rate)

        def read(start: int, count: int) -> Tensor:
            silence = torch.zeros(1, count)
            parts = [given[name].read(start, count) if name in given else silence for name in self.stems]
            return (torch.cat(parts) / level).clamp(-1, 1)

        task = Arrangement(resolve_guidance(guidance, self.stems, 0.0), generate=made, plan=plan)
        mixture = (lambda a, n: mix(read(a, n))) if task.needs_mixture else None
        pieces = self._stream(Job(task, samples, mixture, read, seed), s, progress)
        return self._beside(given, (piece * level for piece in pieces))

    def _stream(self, job: Job, sampling: SamplingSettings, progress: Progress | None) -> Iterator[Tensor]:
        """What the vocoder makes of a piece: (S, 1, n), one after the other, as long as the piece."""
        run = SectionRun(self, job, sampling)
        return _cut(run.pieces(Counter(run.work, progress)), job.samples)

    def _beside(self, given: Mapping[str, MonoSource], pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pieces (S, 1, n) with the given stems as they were given."""
        start = 0
        for piece in pieces:
            for i, name in enumerate(self.stems):
                if name in given:
                    piece[i] = given[name].read(start, piece.shape[-1])
            start += piece.shape[-1]
            yield piece

    def _stems_to_make(self, given: Iterable[str], generate: str | Iterable[str] | None) -> tuple[str, ...]:
        """The stems that an arrangement makes."""
        unknown = [name for name in given if name not in self.stems]
        if unknown:
            raise DataError(f"given stem {unknown[0]!r} is not one of the model's: {', '.join(self.stems)}")
        generate = (generate,) if isinstance(generate, str) else generate
        made = tuple(generate) if generate is not None else tuple(s for s in self.stems if s not in given)
        unknown = [name for name in made if name not in self.stems]
        if unknown:
            raise DataError(f"stem to make {unknown[0]!r} is not one of the model's: {', '.join(self.stems)}")
        if not made:
            raise DataError("nothing to make: all stems are given; leave one out, or name the ones to make anew")
        if set(made) == set(self.stems):
            raise DataError(f"nothing is kept: all of {', '.join(self.stems)} are to be made; generate does that")
        lacking = [name for name in self.stems if name not in given and name not in made]
        if lacking:
            raise DataError(f"stem {lacking[0]!r} is neither given nor to be made; give it, make it, or give silence")
        return made

    def _collect(self, pieces: Iterator[Tensor]) -> dict[str, Tensor]:
        """All pieces (S, channels, n) as one waveform for each stem."""
        whole = torch.cat(list(pieces), dim=-1)
        return {name: whole[i] for i, name in enumerate(self.stems)}


def _device(device: str | torch.device) -> torch.device:
    """The device that is meant.

    Raises:
        ConfigError: this machine has none of that name.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).item()  # of "meta" there is none
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ConfigError(f"device: found {device!r}, expected auto or one that this machine has ({reason})") from error


def _check_default_dtype() -> None:
    """Networks, noise and windows are of 32 bit.

    Raises:
        ConfigError: torch makes tensors of another kind.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch's default dtype: found {torch.get_default_dtype()}, expected torch.float32; call "
            "torch.set_default_dtype(torch.float32) first"
        )


def checked_seed(seed: Any) -> int:
    """A seed as a whole number, where networks can run at all.

    Raises:
        ConfigError: it is none, or torch's default dtype is not 32 bit.
    """
    _check_default_dtype()
    try:
        return operator.index(seed)
    except TypeError:
        raise ConfigError(
            f"seed: found {seed!r}, expected a whole number; the same seed gives the same sound"
        ) from None


def _one_length(sources: Mapping[str, MonoSource]) -> int:
    """The length of stems in samples at one rate, that of the longest.

    Raises:
        DataError: they differ by more than `UNEVEN`.
    """
    lengths = [source.samples for source in sources.values()]
    rate = next(iter(sources.values())).sample_rate
    if max(lengths) - min(lengths) > UNEVEN * rate:
        found = ", ".join(f"{name} {source.samples / rate:.2f} s" for name, source in sources.items())
        raise DataError(f"given stems: found {found}; expected all of one length: add silence to the shorter ones")
    return max(lengths)


def _cut(pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """Pieces (S, n) as (S, 1, n), `samples` in all."""
    left = samples
    for piece in pieces:
        piece = piece[:, None, :left]
        left -= piece.shape[-1]
        if piece.shape[-1]:
            yield piece
