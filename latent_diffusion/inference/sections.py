"""Pieces of any length in bounded memory: sections that go on from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.inference.denoise import LatentPipeline
from latent_diffusion.inference.results import SamplingSettings
from latent_diffusion.inference.windows import Windows
from latent_diffusion.tasks import Task

Read = Callable[[int, int], Tensor]  # (first sample, count) at the model's rate -> (..., count), zeros beyond the end


@dataclass(frozen=True)
class Section:
    """A stretch of a piece, in latent frames.

    Args:
        start, stop: where it lies; the stretch that is sampled may be longer, where that is less than a window.
        head: how much of it is there already: the section before has made it, too.
        batches: network batches that one step takes.
        windows: that it is decoded in.
    """

    start: int
    stop: int
    head: int
    batches: int
    windows: int


@dataclass(frozen=True)
class Job:
    """What to make of a piece.

    Args:
        task: what is made, and what guides.
        samples: length of the piece, at the model's rate.
        mixture: reads the mixture (count,); None without one.
        stems: reads the given stems (S, count); None without any.
        seed: of all random numbers.
    """

    task: Task
    samples: int
    mixture: Read | None
    stems: Read | None
    seed: int


def plan_sections(frames: int, window: int, sampling: SamplingSettings) -> list[Section]:
    """Sections of a piece.

    Args:
        frames: length of the piece in latent frames.
        window: the model's window in latent frames.
        sampling: overlap, windows a section, windows a batch. Without overlap a section is a batch of windows.
    """
    if sampling.overlap == 0:
        length = sampling.batch_size * window
        ends = [(start, min(start + length, frames)) for start in range(0, frames, length)]
        return [Section(start, stop, 0, sampling.average, -(-(stop - start) // window)) for start, stop in ends]
    head = min(window - 1, max(1, round(sampling.overlap * window)))
    length = window + (sampling.section_windows - 1) * (window - head)
    sections = []
    for start in range(0, max(frames - head, 1), length - head):
        stop = min(start + length, frames)
        count = len(Windows(max(stop - start, window), window, head))
        batches = -(-count * sampling.average // sampling.batch_size)
        sections.append(Section(start, stop, head if start else 0, batches, count))
    return sections


def run_sections(
    pipeline: LatentPipeline,
    job: Job,
    sampling: SamplingSettings,
    waveforms: bool = True,
    progress: Progress | None = None,
    head: Tensor | None = None,
) -> Iterator[Tensor]:
    """Sample a piece section by section and decode each; where two overlap, the results fade into each other.

    Args:
        pipeline: the model.
        job: what to make.
        sampling: how.
        waveforms: give waveforms (S, n); otherwise log-mels (S, t, M), all stems'.
        progress: called with (network batches and windows of the vocoder done, in all).
        head: (1, S, C, H, F), latents that the piece begins with.

    Yields:
        (S, t, ...) on the CPU, one after the other; together a little longer than the piece.
    """
    hop, window = pipeline.latent_hop, pipeline.settings.latent_shape[1]
    made = job.task.generated(pipeline.stems) if waveforms else ()
    rate = hop if waveforms else pipeline.settings.autoencoder.reduction  # places for each latent frame
    frames = max(window, -(-job.samples // hop))
    sections = plan_sections(frames, window, sampling)
    if head is not None:
        sections[0] = replace(sections[0], head=head.shape[-2])
    tails = [section.head * rate for section in sections[1:]] + [0]
    return crossfade(zip(_sections(pipeline, job, sampling, made, sections, progress, head), tails, strict=True))


def _sections(
    pipeline: LatentPipeline,
    job: Job,
    sampling: SamplingSettings,
    made: tuple[str, ...],
    sections: list[Section],
    progress: Progress | None,
    tail: Tensor | None,
) -> Iterator[Tensor]:
    """Each section's waveforms (S, n) with the stems that are made, or log-mels (S, t, M) where none are named."""
    hop, window = pipeline.latent_hop, pipeline.settings.latent_shape[1]
    total = sum(sampling.calls * section.batches + len(made) * section.windows for section in sections)
    before = shown = seeds_used = 0

    def tell(done: int) -> None:
        nonlocal shown  # some samplers take a call more than they have steps, some sections a batch less
        if progress and shown < done <= total:
            shown = done
            progress(done, total)

    for number, section in enumerate(sections):
        length = section.stop - section.start
        cut = sampling.overlap == 0
        items = -(-length // window) if cut else 1
        sampled = window if cut else max(length, window)
        first, count = section.start * hop, items * sampled * hop
        mixture = None if job.mixture is None else rearrange(job.mixture(first, count), "(b n) -> b n", b=items)
        stems = None if job.stems is None else rearrange(job.stems(first, count), "s (b n) -> b s n", b=items)
        if mixture is None and stems is None:
            mixture = torch.zeros(items, sampled * hop)  # says how long; not looked at without guidance
        if sampling.average > 1 and mixture is not None:
            mixture = mixture.repeat_interleave(sampling.average, 0)
        seeds = [job.seed * 1_000_003 + seeds_used + i for i in range(items * sampling.average)]
        seeds_used += len(seeds)
        done = 0

        def tick(calls: int, before: int = before, section: Section = section) -> None:
            tell(before + min(calls, sampling.calls * section.batches))

        def on_batch() -> None:
            nonlocal done
            done += 1
            tick(done)

        def on_step(steps: int, _: int, section: Section = section, single: bool = sampled == window) -> None:
            if single:
                tick(steps * section.batches)

        head = None if tail is None or not section.head else tail
        starts = [section.start + i // sampling.average * sampled for i in range(len(seeds))]
        z = pipeline.denoise(job.task, mixture, stems, seeds, sampling, on_step, head, on_batch, starts)
        if head is not None:  # what was to be kept came back close to what it was; go over from one to the other
            fade = (torch.arange(section.head, device=z.device) + 0.5) / section.head
            z[..., : section.head, :] = torch.lerp(head, z[..., : section.head, :], fade[:, None])
        before += sampling.calls * section.batches
        done = before

        def on_vocoded(windows: int) -> None:
            nonlocal done
            done += windows
            tell(done)

        if number + 1 < len(sections):
            z_end = z[..., :length, :]
            tail = z_end[..., length - sections[number + 1].head :, :].clone()
        given = stems.to(pipeline.device) if stems is not None else None
        if made:
            decoded = pipeline.finish(z, made, given, sampling, on_vocoded).waveforms
        else:
            decoded = pipeline.averaged_log_mels(z, sampling)
        before += len(made) * section.windows
        rate = decoded.shape[2] // sampled  # places for each latent frame
        decoded = rearrange(decoded, "b s t ... -> s (b t) ...")
        yield decoded[:, : length * rate].cpu()


def crossfade(parts: Iterable[tuple[Tensor, int]]) -> Iterator[Tensor]:
    """Join parts that overlap.

    Args:
        parts: (S, t, ...) and how many places of its end the next part has, too.

    Yields:
        (S, t, ...) without overlap, one for each part. Where two parts are equal, so is the result.
    """
    tail: Tensor | None = None
    for part, overlap in parts:
        if tail is not None and tail.shape[1]:
            shared = tail.shape[1]
            place = (torch.arange(shared, device=part.device) + 0.5) / shared
            ramp = (torch.sin(torch.pi / 2 * place) ** 2).reshape(-1, *[1] * (part.dim() - 2))
            part = torch.cat([torch.lerp(tail, part[:, :shared], ramp), part[:, shared:]], dim=1)
        end = part.shape[1] - overlap
        tail = part[:, end:]
        yield part[:, :end]
