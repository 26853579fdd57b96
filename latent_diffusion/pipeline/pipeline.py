"""Waveforms in, stems out: what users call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from latent_diffusion.diffusion.guidance import Scale
from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.pipeline.core import LatentPipeline
from latent_diffusion.pipeline.inputs import ArraySource, AudioSource, Waveform, read_mono, resolve_guidance
from latent_diffusion.pipeline.masking import EXPONENT, MaskFilter, filter_stream, soft_masks
from latent_diffusion.pipeline.results import SamplingSettings, mix
from latent_diffusion.pipeline.sections import Job, run_sections
from latent_diffusion.resampling import resampled_length
from latent_diffusion.tasks import Arrangement, Generation, Separation

REFINEMENTS = ("mask", "none")
Guidance = Scale | Mapping[str, float]


class MultiTrackPipeline(LatentPipeline):
    """Separate, generate and arrange with one model.

    `separate`, `generate` and `arrange` take and give whole waveforms; `stream_*` read and give them piece by piece,
    in memory that does not grow with their length.
    """

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

    # Whole waveforms.

    def separate(
        self,
        mixture: Waveform,
        sample_rate: int,
        guidance_scale: Guidance = 1.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        refine: str = "mask",
        mask_exponent: float = EXPONENT,
    ) -> dict[str, Tensor]:
        """Take a recording apart.

        Args:
            mixture: (samples,) or (channels, samples), numpy or torch, any length above 0. The model hears it mono.
            sample_rate: hz, any.
            guidance_scale: above 1 follows the mixture more closely; one number, one a stem, or {stem: number}, where
                stems that are not named have 1.
            seed: same seed, same stems, whatever the batch size.
            sampling: sampler, steps, eta, windows at once, overlap.
            progress: called with (network batches done, in all).
            refine: "mask" for stems cut out of the mixture itself by the model's log-mels, which sum to the mixture;
                "none" for what the vocoder makes of the log-mels.
            mask_exponent: of the magnitudes that the masks compare; above 2 decides harder.

        Returns:
            {stem: waveform}: with "mask" (channels, samples) as the mixture and at its rate, with "none" (1, samples)
            at the model's rate, `settings.mel.sample_rate`.

        Raises:
            ConfigError: unknown refinement or stem, or a guidance scale of 0 for all stems.
            DataError: empty or not finite.
        """
        source = ArraySource(mixture, sample_rate, "mixture")
        return self._collect(
            self.stream_separate(source, guidance_scale, seed, sampling, progress, refine, mask_exponent)
        )

    def generate(
        self,
        seconds: float | None = None,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Make all stems from nothing.

        Args:
            seconds: length; None for one window.
            seed, sampling, progress: as in `separate`.

        Returns:
            {stem: (1, samples)} at the model's rate.

        Raises:
            DataError: a length that is not positive and finite.
        """
        return self._collect(self.stream_generate(seconds, seed, sampling, progress))

    def arrange(
        self,
        stems: Mapping[str, Waveform],
        sample_rate: int,
        generate: str | Iterable[str] | None = None,
        guidance_scale: Guidance = 0.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Make the missing stems for given ones.

        Args:
            stems: given stems by name, each (samples,) or (channels, samples).
            sample_rate: hz, of all of them.
            generate: stems to make; None for all that are not given.
            guidance_scale: above 0 the mixture of the given stems guides, too; stems that are not named have 0.
            seed, sampling, progress: as in `separate`.

        Returns:
            {stem: (1, samples)} at the model's rate, the given ones unchanged but for rate and channels
            (mono) and clipping to [-1, 1].

        Raises:
            DataError: unknown stems, unequal lengths, or nothing left to make.
        """
        made = self._stems_to_make(stems, generate)
        sources = {name: ArraySource(x, sample_rate, name) for name, x in stems.items() if name not in made}
        return self._collect(self.stream_arrange(sources, made, guidance_scale, seed, sampling, progress))

    # Piece by piece.

    def stream_separate(
        self,
        source: AudioSource,
        guidance_scale: Guidance = 1.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
        refine: str = "mask",
        mask_exponent: float = EXPONENT,
    ) -> Iterator[Tensor]:
        """As `separate`, from an `AudioSource`; yields (S, channels, n), one after the other."""
        if refine not in REFINEMENTS:
            raise ConfigError(f"refine: found {refine!r}, expected one of {', '.join(REFINEMENTS)}")
        if not (math.isfinite(mask_exponent) and mask_exponent > 0):
            raise ConfigError(f"mask exponent: found {mask_exponent}, expected a number above 0")
        s, mel = sampling or SamplingSettings(), self.settings.mel
        samples = resampled_length(source.samples, source.sample_rate, mel.sample_rate)
        task = Separation(resolve_guidance(guidance_scale, self.stems, 1.0))
        job = Job(task, samples, lambda a, n: read_mono(source, a, n, mel.sample_rate), None, seed)
        if refine == "none":
            pieces = run_sections(self, job, s, lambda z, _: self.decode(z, s.overlap)[1], self.latent_hop, progress)
            return _cut(pieces, samples)

        def masks(z: Tensor, _: Tensor | None) -> Tensor:
            return torch.stack([soft_masks(item, mask_exponent) for item in self.decode_log_mels(z, s.overlap)])

        pieces = run_sections(self, job, s, masks, self.settings.autoencoder.reduction, progress)
        return filter_stream(source.read, source.samples, pieces, MaskFilter(mel, source.sample_rate))

    def stream_generate(
        self,
        seconds: float | None = None,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """As `generate`; yields (S, 1, n), one after the other."""
        s, mel = sampling or SamplingSettings(), self.settings.mel
        length = mel.window_seconds if seconds is None else seconds
        samples = round(length * mel.sample_rate) if math.isfinite(length) else 0
        if samples < 1:
            raise DataError(f"seconds: found {seconds}, expected at least one sample at {mel.sample_rate} hz")
        job = Job(Generation(), samples, None, None, seed)
        pieces = run_sections(self, job, s, lambda z, _: self.decode(z, s.overlap)[1], self.latent_hop, progress)
        return _cut(pieces, samples)

    def stream_arrange(
        self,
        sources: Mapping[str, AudioSource],
        generate: str | Iterable[str] | None = None,
        guidance_scale: Guidance = 0.0,
        seed: int = 0,
        sampling: SamplingSettings | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """As `arrange`, from an `AudioSource` for each given stem; yields (S, 1, n), one after the other."""
        s, rate = sampling or SamplingSettings(), self.settings.mel.sample_rate
        made = self._stems_to_make(sources, generate)
        given = {name: source for name, source in sources.items() if name not in made}
        lengths = {resampled_length(source.samples, source.sample_rate, rate) for source in given.values()}
        if len(lengths) != 1:
            raise DataError(f"given stems: expected at least one, all of one length, found {sorted(lengths)} samples")
        samples = lengths.pop()

        def read(start: int, count: int) -> Tensor:
            silence = torch.zeros(count)
            return torch.stack(
                [read_mono(given[name], start, count, rate) if name in given else silence for name in self.stems]
            )

        task = Arrangement(resolve_guidance(guidance_scale, self.stems, 0.0), generate=made)
        mixture = (lambda a, n: mix(read(a, n))) if task.needs_mixture else None

        def waveforms(z: Tensor, stems: Tensor | None) -> Tensor:
            return self.finish(z, task.generated(self.stems), stems, s.overlap).waveforms

        return _cut(
            run_sections(self, Job(task, samples, mixture, read, seed), s, waveforms, self.latent_hop, progress),
            samples,
        )

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
        lacking = [name for name in self.stems if name not in given and name not in made]
        if lacking:
            raise DataError(f"stem {lacking[0]!r} is neither given nor to be made; give it, make it, or give silence")
        return made

    def _collect(self, pieces: Iterator[Tensor]) -> dict[str, Tensor]:
        """All pieces (S, channels, n) as one waveform for each stem."""
        whole = torch.cat(list(pieces), dim=-1)
        return {name: whole[i] for i, name in enumerate(self.stems)}


def _cut(pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """Pieces (S, n) as (S, 1, n), `samples` in all."""
    left = samples
    for piece in pieces:
        piece = piece[:, None, :left]
        left -= piece.shape[-1]
        if piece.shape[-1]:
            yield piece
