"""Pieces of any length in bounded memory: sections that go on from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from latent_diffusion.inference.codec import LatentCodec
from latent_diffusion.inference.counter import Counter
from latent_diffusion.inference.denoise import Batch, Denoising
from latent_diffusion.inference.results import SamplingSettings
from latent_diffusion.inference.seeds import piece_seeds
from latent_diffusion.inference.windows import Windows
from latent_diffusion.tasks import Task

Read = Callable[[int, int], Tensor]  # (first sample, count) at the model's rate -> (..., count), zeros beyond the end


@dataclass(frozen=True)
class Section:
    """A stretch of a piece, in latent frames.

    Args:
        start, stop: where it lies; the stretch that is sampled may be longer, where that is less than a window.
        head: how much of it is there already: the section before has made it, too.
        batches: network calls that one step takes.
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
        counts = [-(-(stop - start) // window) for start, stop in ends]
        return [
            Section(start, stop, 0, sampling.batches(count * sampling.average), count)
            for (start, stop), count in zip(ends, counts, strict=True)
        ]
    head = min(window - 1, max(1, round(sampling.overlap * window)))
    length = window + (sampling.section_windows - 1) * (window - head)
    sections = []
    for start in range(0, max(frames - head, 1), length - head):
        stop = min(start + length, frames)
        count = len(Windows(max(stop - start, window), window, head))
        sections.append(Section(start, stop, head if start else 0, sampling.batches(count * sampling.average), count))
    return sections


class SectionRun:
    """Samples a piece section by section and decodes each, once. It holds what one section hands on to the next.

    Args:
        codec: the model.
        job: what to make.
        sampling: how.
        waveforms: make waveforms (S, n); otherwise log-mels (S, t, M), of all stems.
        head: (1, S, C, H, F), latents that the piece begins with.
    """

    def __init__(
        self,
        codec: LatentCodec,
        job: Job,
        sampling: SamplingSettings,
        waveforms: bool = True,
        head: Tensor | None = None,
    ):
        self.codec, self.job, self.sampling, self.waveforms = codec, job, sampling, waveforms
        self.hop, self.window = codec.latent_hop, codec.settings.latent_shape[1]
        self.made = job.task.generated(codec.stems)
        self.sections = plan_sections(max(self.window, -(-job.samples // self.hop)), self.window, sampling)
        self.head, self.seeds_used = head, 0
        if head is not None:
            self.sections[0] = replace(self.sections[0], head=head.shape[-2])

    @property
    def work(self) -> int:
        """Network calls and windows of the vocoder, of the whole piece."""
        vocoded = len(self.made) if self.waveforms else 0
        return sum(self.sampling.calls * section.batches + vocoded * section.windows for section in self.sections)

    def pieces(self, counter: Counter | None = None) -> Iterator[Tensor]:
        """The sections' results (S, t, ...) on the CPU, one after the other; together a little longer than the piece.

        Where two sections overlap, the results fade into each other.
        """
        rate = self.hop if self.waveforms else self.codec.settings.autoencoder.reduction  # places per latent frame
        heads = [section.head for section in self.sections[1:]] + [0]
        made = ((self._make(*pair, counter), pair[1] * rate) for pair in zip(self.sections, heads, strict=True))
        return crossfade(made)

    def _make(self, section: Section, next_head: int, counter: Counter | None) -> Tensor:
        """One section's results (S, t, ...), of whose end the next section has `next_head` latent frames, too."""
        length = section.stop - section.start
        batch = self._batch(section)
        z = Denoising(self.codec, batch, self.sampling).run(counter)
        if batch.head is not None:  # it came back close to what it was; go over from one to the other
            fade = (torch.arange(section.head, device=z.device) + 0.5) / section.head
            z[..., : section.head, :] = torch.lerp(batch.head, z[..., : section.head, :], fade[:, None])
        self.head = z[..., length - next_head : length, :].clone() if next_head else None
        if self.waveforms:
            given = None if batch.stems is None else batch.stems.to(self.codec.device)
            decoded = self.codec.finish(z, self.made, given, self.sampling, counter).waveforms
        else:
            decoded = self.codec.averaged_log_mels(z, self.sampling)
        rate = decoded.shape[2] // z.shape[-2]
        return rearrange(decoded, "b s t ... -> s (b t) ...")[:, : length * rate].cpu()

    def _batch(self, section: Section) -> Batch:
        """What is sampled for a section: one long item, or, where windows do not overlap, an item per window."""
        length, average = section.stop - section.start, self.sampling.average
        items = -(-length // self.window) if self.sampling.overlap == 0 else 1
        frames = self.window if self.sampling.overlap == 0 else max(length, self.window)
        first, count = section.start * self.hop, items * frames * self.hop
        mixture, stems = self.job.mixture, self.job.stems
        seeds = piece_seeds(self.job.seed, self.seeds_used, items * average)
        self.seeds_used += len(seeds)
        return Batch(
            self.job.task,
            seeds,
            None if mixture is None else rearrange(mixture(first, count), "(b n) -> b n", b=items),
            None if stems is None else rearrange(stems(first, count), "s (b n) -> b s n", b=items),
            frames * self.hop,
            self.head if section.head else None,
            [section.start + i * frames for i in range(items)],
        )


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
