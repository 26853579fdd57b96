"""Changes to the stems of a training item that widen what a few songs sound like: levels, tone, room, saturation.

Everything is drawn from the generator that comes in, so an item is a function of its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PEAK = 0.95  # of the mixture and of every stem at most; louder items are turned down as a whole
LOWEST_BAND_HZ = 62.5  # of the equaliser; the others lie an octave apart, up to half the sample rate
DECAY_SECONDS = (0.1, 0.6)  # in which a room's echo falls by 60 dB
WET = (0.05, 0.3)  # level of the echo relative to the stem
DRIVE = (1.0, 4.0)  # of the saturation: the loudest sample is bent as tanh bends this value


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training item; the defaults do nothing.

    Args:
        gain_db: lowest and highest level of a stem, drawn for each; half of the drawn range is then drawn once more for
            all stems of the item together. None: levels stay.
        equaliser_db: gains between -this and this, an octave apart and straight lines between, drawn for each stem.
        reverb: probability that a stem gets the echo of a small room.
        saturation: probability that a stem is softly clipped.
        remix: probability that every stem comes from another place of another track, where it sounds.
        mute: probability that a stem of a remixed item is silent, but never all: songs tell which instruments they tend
            to have together, and a separation that leans on that fails on other songs.
    """

    gain_db: tuple[float, float] | None = None
    equaliser_db: float = 0.0
    reverb: float = 0.0
    saturation: float = 0.0
    remix: float = 0.0
    mute: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return self != Augmentation()

    def __call__(self, stems: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        """Stems (S, N) in [-1, 1] with other timbres and levels; neither they nor their sum exceed `PEAK`.

        Args:
            stems: (S, N) float32.
            sample_rate: hz.
            rng: source of everything random.
        """
        if self.saturation:
            stems = saturate(stems, rng.random(len(stems)) < self.saturation, rng)
        if self.equaliser_db or self.reverb:
            stems = self._filter(stems, sample_rate, rng)
        if self.gain_db is not None:
            db = rng.uniform(*self.gain_db, len(stems)) + rng.uniform(*self.gain_db) / 2
            stems = stems * torch.from_numpy(10 ** (db / 20)).to(stems)[:, None]
        peak = float(torch.cat([stems, stems.sum(0, keepdim=True)]).abs().max())
        return stems * (PEAK / peak) if peak > PEAK else stems

    def _filter(self, stems: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        """Equaliser and echo in one pass through the spectrum."""
        samples = stems.shape[1]
        tail = math.ceil(DECAY_SECONDS[1] * sample_rate)  # what is filtered must not wrap around
        size = math.ceil((samples + tail) / 1024) * 1024  # 2^10 at least, so that the FFT is fast
        response = torch.from_numpy(equaliser(len(stems), size, sample_rate, self.equaliser_db, rng))
        echoing = np.flatnonzero(rng.random(len(stems)) < self.reverb)
        if len(echoing):
            rooms = torch.from_numpy(np.stack([echo(tail, sample_rate, rng) for _ in echoing]))
            wet = torch.from_numpy(rng.uniform(*WET, (len(echoing), 1)).astype(np.float32))
            response = response.to(torch.complex64)
            response[echoing] *= 1 + wet * torch.fft.rfft(rooms, size)
        return torch.fft.irfft(torch.fft.rfft(stems, size) * response, size)[:, :samples]


def equaliser(count: int, size: int, sample_rate: int, db: float, rng: np.random.Generator) -> np.ndarray:
    """Random smooth gains over frequency: at octaves uniform in [-db, db], linear in dB over log-frequency between.

    Args:
        count: how many.
        size: of the FFT, samples.
        sample_rate: hz.
        db: largest gain.
        rng: source of the gains.

    Returns:
        (count, size // 2 + 1) float32, factors.
    """
    bands = max(1, math.floor(math.log2(sample_rate / 2 / LOWEST_BAND_HZ)) + 1)
    gains = rng.uniform(-db, db, (count, bands))
    hz = np.fft.rfftfreq(size, 1 / sample_rate)
    place = np.log2(np.maximum(hz, LOWEST_BAND_HZ) / LOWEST_BAND_HZ)
    curves = np.stack([np.interp(place, np.arange(bands), row) for row in gains])
    return np.exp(curves.astype(np.float32) * np.float32(math.log(10) / 20))


def echo(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (samples,) that decays exponentially, of unit energy: the simplest room."""
    seconds = rng.uniform(*DECAY_SECONDS)
    fall = np.exp(-math.log(1000) * np.arange(samples, dtype=np.float32) / np.float32(seconds * sample_rate))
    noise = rng.standard_normal(samples, dtype=np.float32) * fall
    return noise / np.linalg.norm(noise)


def saturate(stems: Tensor, which: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Softly clip some stems by tanh, at a random drive relative to their peaks; their levels (RMS) stay.

    Args:
        stems: (S, N).
        which: (S,) bool, the stems concerned.
        rng: source of the drives.

    Returns:
        (S, N), a new tensor where any stem changed.
    """
    drive = np.exp(rng.uniform(*np.log(DRIVE), len(stems)))
    chosen = [i for i in np.flatnonzero(which).tolist() if stems[i].any()]
    if not chosen:
        return stems
    stems, before = stems.clone(), stems[chosen]
    slope = torch.from_numpy(drive[chosen]).to(stems)[:, None] / before.abs().amax(1, keepdim=True)
    bent = torch.from_numpy(np.tanh((before * slope).numpy()))  # several times as fast as torch's on a CPU
    stems[chosen] = bent * (before.norm(dim=1, keepdim=True) / bent.norm(dim=1, keepdim=True))
    return stems
