"""Going on from a recording: its last latents are known, in time as an arrangement's given stems are known in stems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference.codec import LatentCodec
from latent_diffusion.inference.counter import Counter
from latent_diffusion.inference.hearing import level_of
from latent_diffusion.inference.results import SamplingSettings
from latent_diffusion.inference.sections import Job, SectionRun, crossfade
from latent_diffusion.tasks import Generation


def go_on(
    codec: LatentCodec,
    recording: Iterable[Tensor],
    samples: int,
    seed: int,
    sampling: SamplingSettings,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """A recording and what comes after it.

    The latents of its last half window are kept while the windows after it are sampled, all but the very last latent
    frame: that one hears the audio end, and is made anew. Over its length the recording fades into what was made.

    Args:
        codec: the model.
        recording: stems (S, 1, n) at the model's rate, one piece after the other.
        samples: to make after the recording, at the model's rate.
        seed: of all random numbers.
        sampling: how.
        progress: called with (network calls and windows of the vocoder done, in all).

    Yields:
        (S, 1, n), one after the other: the recording's samples, then `samples` more.

    Raises:
        ConfigError: windows that do not overlap: what is made in one would not know of the one before.
        DataError: a recording of less than two latent frames.
    """
    if sampling.overlap == 0:
        raise ConfigError("overlap: found 0, expected above 0 to go on from a recording")
    hop, window, rate = codec.latent_hop, codec.settings.latent_shape[1], codec.settings.mel.sample_rate
    held = torch.zeros(len(codec.stems), 0)
    for piece in recording:
        held = torch.cat([held, piece[:, 0]], dim=1)
        if held.shape[1] > window * hop:
            yield held[:, None, : -window * hop]
            held = held[:, -window * hop :]
    level = level_of(lambda start, count: held[:, start : start + count].sum(0), held.shape[1], rate)
    head = _last_latents(codec, held / level, seed)
    known = head.shape[-2] * hop
    job = Job(Generation(), known + hop + samples, None, None, seed)
    run = SectionRun(codec, job, sampling, head=head)
    made = (level * piece for piece in run.pieces(Counter(run.work, progress)))
    left = held.shape[1] + samples
    for piece in crossfade(_after(held, hop, made, known)):
        piece = piece[:, None, :left]
        left -= piece.shape[-1]
        if piece.shape[-1]:
            yield piece


def _last_latents(codec: LatentCodec, held: Tensor, seed: int) -> Tensor:
    """Latents (1, S, C, H, F) of the end of stems (S, n), less the last frame."""
    hop, window = codec.latent_hop, codec.settings.latent_shape[1]
    frames = min(window // 2, held.shape[1] // hop - 1)
    if frames < 1:
        shortest = 2 * hop / codec.settings.mel.sample_rate
        found = held.shape[1] / codec.settings.mel.sample_rate
        raise DataError(f"recording to go on from: found {found:.3f} s, expected at least {shortest:.3f} s")
    audio = F.pad(held, (window * hop - held.shape[1], 0)).clamp(-1, 1)
    z, _ = codec.encode(audio.to(codec.device), torch.Generator().manual_seed(seed % 2**63))
    return z[None, :, :, -1 - frames : -1]


def _after(held: Tensor, fade: int, made: Iterator[Tensor], known: int) -> Iterator[tuple[Tensor, int]]:
    """Parts for `crossfade`: the recording's end (S, n), then pieces (S, m) without their first `known` samples."""
    yield held, fade
    first = next(made)
    while first.shape[1] < known + fade:
        first = torch.cat([first, next(made)], dim=1)
    yield first[:, known:], 0
    yield from ((piece, 0) for piece in made)
