"""How a recording is brought to what the model knows: one channel in which nothing cancels, as loud as in training.

Only what users hand in goes through here. Windows of a data set, and so all published numbers, are taken as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_diffusion.resampling import resample, resampled_length, source_range

log = logging.getLogger(__name__)

LOUD = 0.95  # of all magnitudes of a recording's samples lie in blocks that peak at its level or below
BLOCK_SECONDS = 0.4
MOST_BLOCKS = 600  # that are looked at, evenly spread over a recording
FRAME_SECONDS = 0.064  # of the spectra in which channels are compared and joined
LEFT_OVER = 0.15  # of a band's power that the mean of the channels has at least, unless they cancel each other
SOUNDING = 1e-4  # of the loudest band's power, that a band has at least to be looked at
LOWEST_BAND, BANDS_PER_OCTAVE = 100.0, 3


class AudioSource(Protocol):
    """Audio that can be read piece by piece: a file, for example."""

    sample_rate: int  # hz
    samples: int  # of one channel, at least 1
    channels: int

    def read(self, start: int, count: int) -> Tensor:
        """Samples `start` to `start + count`, all within the audio: (channels, count), float32, finite."""
        ...


class MonoSource:
    """A source as the model hears it, as a source of its own: mono and resampled.

    The mean of the channels, as in training. Where that would lose what they have in common (one is inverted, or late),
    every place of the spectrum has the power that the channels have there in the mean, and the phase of one of them.

    Args:
        source: what is read.
        sample_rate: the model's, hz.
    """

    channels = 1

    def __init__(self, source: AudioSource, sample_rate: int):
        self.source, self.sample_rate = source, sample_rate
        self.samples = resampled_length(source.samples, source.sample_rate, sample_rate)

    def read(self, start: int, count: int) -> Tensor:
        """(1, count); zeros beyond the end."""
        if not self.cancels:
            return self._read(start, count, mean=True)
        hop = max(1, round(FRAME_SECONDS * self.sample_rate / 4))
        first, last = start // hop * hop - 4 * hop, -(-(start + count) // hop) * hop + 4 * hop  # frames lie on a grid
        begin = max(0, first)
        around = F.pad(self._read(begin, last - begin, mean=False), (begin - first, 0))
        return _joined(around, hop)[None, start - first :][:, :count]

    @cached_property
    def cancels(self) -> bool:
        """Whether the mean of the channels loses what is in them, in any third of an octave."""
        if self.source.channels == 1:
            return False
        size = 2 * max(8, round(FRAME_SECONDS * self.source.sample_rate / 2))
        window, summed, powers = torch.hann_window(size), 0.0, 0.0
        for start, count in _blocks(self.source.samples, self.source.sample_rate):
            block = F.pad(self.source.read(start, count), (0, max(0, size - count)))
            spectrum = torch.stft(block, size, size, window=window, center=False, return_complex=True)
            summed = summed + spectrum.mean(0).abs().double().square().sum(-1)
            powers = powers + spectrum.abs().double().square().mean(0).sum(-1)
        hz = torch.arange(1, len(powers)) * self.source.sample_rate / size
        band = (BANDS_PER_OCTAVE * (hz.clamp(min=LOWEST_BAND) / LOWEST_BAND).log2()).round().long()
        within = hz < self.sample_rate / 2  # what the model hears
        summed, powers = (
            torch.zeros(int(band.max()) + 1, dtype=torch.float64).index_add_(0, band[within], x[1:][within])
            for x in (summed, powers)
        )
        lost = (powers > SOUNDING * powers.max()) & (summed < LEFT_OVER * powers)
        if bool(lost.any()):
            name = getattr(self.source, "path", "recording")
            log.warning("%s: channels cancel each other (one may be inverted, or late); heard by their power", name)
        return bool(lost.any())

    def _read(self, start: int, count: int, mean: bool) -> Tensor:
        """(1 or channels, count) at the model's rate; zeros beyond the end."""
        source, rate = self.source, self.source.sample_rate
        first, last, before = source_range(start, count, source.samples, rate, self.sample_rate)
        if last <= first:
            return torch.zeros(1 if mean else source.channels, count)
        stretch = source.read(first, last - first)
        stretch = resample(stretch.mean(0, keepdim=True) if mean else stretch, rate, self.sample_rate)
        stretch = stretch[:, before:][:, :count]
        return F.pad(stretch, (0, count - stretch.shape[1]))


def _joined(channels: Tensor, hop: int) -> Tensor:
    """Channels (C, n) as one (n,) that has their mean power at every place of the spectrum."""
    window = torch.hann_window(4 * hop)
    how = {"n_fft": 4 * hop, "hop_length": hop, "window": window, "center": True}
    spectrum = torch.stft(channels, **how, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square()
    # the first of the louder channels: the same one everywhere, unless it is silent at a place
    chosen = (power >= 0.5 * power.amax(0)).float().argmax(0, keepdim=True)
    phase = torch.sgn(spectrum.gather(0, chosen)[0])
    return torch.istft(phase * power.mean(0).sqrt(), **how, length=channels.shape[1])


def _blocks(samples: int, rate: int) -> list[tuple[int, int]]:
    """(start, count) of the blocks of a recording that are looked at."""
    count = min(samples, max(1, round(BLOCK_SECONDS * rate)))
    whole = samples // count
    looked_at = min(whole, MOST_BLOCKS)
    return [(number * whole // looked_at * count, count) for number in range(looked_at)]


def level_of(read: Callable[[int, int], Tensor], samples: int, rate: int) -> float:
    """How loud a recording is: its peak, without the few blocks that peak higher; 1 for silence.

    What the model was trained on peaks near 1. Dividing by this brings a recording there, however quiet or loud it is;
    long rests and single clicks count for little.

    Args:
        read: (first sample, count) -> the mixture's samples, in any shape.
        samples: its length.
        rate: hz.
    """
    looked_at = []
    for block in _blocks(samples, rate):
        magnitudes = read(*block).abs()
        looked_at.append((magnitudes.max().item(), magnitudes.double().sum().item()))
    looked_at.sort()
    sums = list(accumulate(amount for _, amount in looked_at))
    level = next(peak for (peak, _), amount in zip(looked_at, sums, strict=True) if amount >= LOUD * sums[-1])
    return level if level > 0 else 1.0
