"""Mixture-consistent stems: soft masks from the model's log-mels on the mixture's own spectrum.

The model hears 16 kHz mono and makes log-mels. A musician wants the recording itself, taken apart. So each stem's share
of the mel energy becomes a mask on the complex short-time spectrum of every channel of the input, at the input's rate
(a generalised Wiener filter, Liutkus and Badeau 2015), which median filters make as fine as the spectrum (see
`median_filters`): the stems keep the mixture's phase, stereo image and band, and sum to it, because the shares sum to 1
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from latent_diffusion.first_stage.mel import SILENCE, LogMel
from latent_diffusion.inference.median_filters import REACH, percussion_frames, percussiveness, sharpen
from latent_diffusion.settings import MelSettings
from latent_diffusion.tasks import MASK_EXPONENT, MASK_ROUNDS

WINDOWS = 2  # of the model's length in time that the masks' window has: tones lie apart in it
OVERLAPS = 4  # of the masks' windows
TOP_BANDS = 8  # one in so many mel bands, the highest, speaks for what lies above the model's band
BLOCK_SECONDS = 10.0  # of audio filtered at once


def soft_masks(log_mels: Tensor, exponent: float = MASK_EXPONENT) -> Tensor:
    """Each stem's share of the mel magnitudes raised to a power.

    Args:
        log_mels: (S, T, M), natural log. What lies below the log-mel of silence, or is no number, counts as that:
            where all stems are silent they share alike.
        exponent: 1 compares magnitudes, 2 energies; larger ones decide harder.

    Returns:
        (S, T, M + 1), summing to 1 over the stems; the last entry is the share in the highest bands together, which
        continues the masks above the model's band.
    """
    energy = exponent * log_mels.float().nan_to_num(SILENCE, 50.0, SILENCE).clamp(min=SILENCE)
    top = energy[..., -max(1, energy.shape[-1] // TOP_BANDS) :].logsumexp(-1, keepdim=True)
    return torch.cat([energy, top], dim=-1).softmax(0)


class MaskFilter:
    """Cuts stems out of audio of any rate and any number of channels by their log-mels.

    Args:
        mel: the log-mels' front end.
        sample_rate: of the audio, hz.
        exponent: of the mel magnitudes (see `soft_masks`).
        rounds: of the median filters (see `median_filters.sharpen`); 0: masks as wide as mel bands.
    """

    def __init__(self, mel: MelSettings, sample_rate: int, exponent: float = MASK_EXPONENT, rounds: int = MASK_ROUNDS):
        self.mel, self.sample_rate, self.exponent, self.rounds = mel, sample_rate, exponent, rounds
        self.n_fft = 2 * max(4, round(WINDOWS * mel.n_fft * sample_rate / mel.sample_rate / 2))
        self.hop = max(1, self.n_fft // OVERLAPS)
        windows = -(-self.n_fft // self.hop)  # half of one into a block and half of one around what decides there
        self.block_samples = max(1, round(BLOCK_SECONDS * sample_rate / self.hop)) * self.hop
        self.margin = (windows + REACH * rounds) * self.hop  # audio around a block that decides what is in it
        self.window = torch.hann_window(self.n_fft)
        self.bands_to_bins = self._bands_to_bins()

    def _bands_to_bins(self) -> Tensor:
        """Linear interpolation over frequency, (M + 1, bins); columns sum to 1.

        The M bands lie at their filters' centres; the last mask counts from a tenth above the model's band on, so that
        what the model heard goes over into it.
        """
        basis = LogMel(self.mel).mel_basis.double()  # (fft bins, M)
        hz = torch.linspace(0, self.mel.sample_rate / 2, len(basis), dtype=torch.float64)
        centres = (basis * hz[:, None]).sum(0) / basis.sum(0).clamp(min=1e-12)
        anchors = torch.cat([centres, centres.new_tensor([1.1 * self.mel.f_max])]).cummax(0).values
        bins = torch.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1, dtype=torch.float64)
        upper = torch.searchsorted(anchors, bins).clamp(1, len(anchors) - 1)
        low, high = anchors[upper - 1], anchors[upper]
        part = ((bins - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        matrix = torch.zeros(len(anchors), len(bins), dtype=torch.float64)
        matrix[upper - 1, torch.arange(len(bins))] = 1 - part
        matrix[upper, torch.arange(len(bins))] += part
        return matrix.float()

    def frame_at(self, sample: int) -> float:
        """The mel frame, with fraction, that lies at a sample of the audio."""
        return sample / self.sample_rate * self.mel.sample_rate / self.mel.hop_length

    def guard_frames(self) -> int:
        """Mel frames beyond either end of a block that take part in it."""
        return int(self.frame_at(self.margin)) + 2 + percussion_frames(self.frames_per_second) + 1

    @property
    def frames_per_second(self) -> float:
        """Mel frames."""
        return self.frame_at(self.sample_rate)

    def __call__(self, block: Tensor, start: int, log_mels: Tensor, first_frame: int) -> Tensor:
        """Filter one block.

        Args:
            block: (channels, margin + n + margin): the audio with what surrounds it, zeros beyond its ends.
            start: sample of the audio at which the n samples begin; a multiple of `hop`.
            log_mels: (S, T, M), natural log.
            first_frame: the mel frame that log_mels[:, 0] belongs to.

        Returns:
            (S, channels, n), which sum to the block's n samples.
        """
        inner = block[:, self.margin : block.shape[1] - self.margin]
        spectrum = torch.stft(
            block, self.n_fft, self.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        samples = start - self.margin + self.hop * torch.arange(spectrum.shape[-1], dtype=torch.float64)
        place = samples * (self.frame_at(1)) - first_frame
        place = place.clamp(0, log_mels.shape[1] - 1)
        before = place.floor().long()
        after = (before + 1).clamp(max=log_mels.shape[1] - 1)
        part = (place - before).float()[:, None]
        masks = soft_masks(log_mels, self.exponent)
        masks = torch.lerp(masks[:, before], masks[:, after], part)  # (S, frames, M + 1)
        shares = (masks @ self.bands_to_bins).transpose(1, 2).contiguous()
        percussive = percussiveness(log_mels, self.frames_per_second)[:, before]
        shares = sharpen(shares, spectrum.abs().square().mean(0).sqrt(), percussive, self.rounds)
        stems = []
        for share in shares:
            stem = torch.istft(
                spectrum * share, self.n_fft, self.hop, window=self.window, center=True, length=block.shape[1]
            )
            stems.append(stem[:, self.margin : self.margin + inner.shape[1]])
        made = torch.stack(stems)
        return made + (inner - made.sum(0)) / len(made)  # what rounding left over


def filter_stream(
    read: Callable[[int, int], Tensor], samples: int, log_mels: Iterable[Tensor], masker: MaskFilter
) -> Iterator[Tensor]:
    """Take apart audio that is read piece by piece by log-mels that arrive piece by piece.

    Args:
        read: (first sample, count) -> (channels, count).
        samples: of the audio.
        log_mels: (S, t, M) each, one after the other.
        masker: the filter.

    Yields:
        (S, channels, n), one after the other, `samples` in all. How they are cut changes nothing.
    """
    guard, hop, block = masker.guard_frames(), masker.hop, masker.block_samples
    held, first, done = None, 0, 0

    def emit(until: int) -> Iterator[Tensor]:
        nonlocal done
        while done < until:
            stop = min(done + block, until)
            low, high = max(0, done - masker.margin), min(samples, stop + masker.margin)
            around = (low - done + masker.margin, stop + masker.margin - high)
            audio = torch.nn.functional.pad(read(low, high - low), around)
            begin = max(0, min(int(masker.frame_at(done)) - first, held.shape[1] - 1) - guard)
            end = int(masker.frame_at(stop)) + 1 - first + guard
            yield masker(audio, done, held[:, begin:end], first + begin)
            done = stop

    for part in log_mels:
        held = part if held is None else torch.cat([held, part], dim=1)
        ready = int((first + held.shape[1] - guard) / masker.frame_at(1)) // hop * hop
        yield from emit(min(ready, samples // hop * hop))
        spare = max(0, int(masker.frame_at(done)) - guard - first)
        held, first = held[:, spare:], first + spare
    yield from emit(samples)


def mask_mixture(
    mixture: Tensor,
    sample_rate: int,
    log_mels: Tensor,
    mel: MelSettings,
    exponent: float = MASK_EXPONENT,
    rounds: int = MASK_ROUNDS,
) -> Tensor:
    """Take a mixture apart by its stems' log-mels.

    Args:
        mixture: (channels, samples) at any rate.
        sample_rate: hz.
        log_mels: (S, T, M), natural log, of the same music; frames beyond their end repeat the last one.
        mel: the log-mels' front end.
        exponent, rounds: see `MaskFilter`.

    Returns:
        (S, channels, samples); the stems sum to the mixture.
    """
    masker = MaskFilter(mel, sample_rate, exponent, rounds)
    pieces = filter_stream(lambda start, count: mixture[:, start : start + count], mixture.shape[1], [log_mels], masker)
    return torch.cat(list(pieces), dim=-1)


def mask_mixtures(mixtures: Tensor, log_mels: Tensor, mel: MelSettings, exponent: float, rounds: int) -> Tensor:
    """Mixtures (B, N) at the model's rate taken apart by their stems' log-mels (B, S, T, M): (B, S, N) on the CPU."""
    pairs = zip(mixtures.cpu(), log_mels.cpu(), strict=True)
    return torch.stack([mask_mixture(one[None], mel.sample_rate, by, mel, exponent, rounds)[:, 0] for one, by in pairs])
