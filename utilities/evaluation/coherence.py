"""Whether stems belong together: rhythm from onsets and beats, harmony from chroma.

Log-mels (T, M) are natural. What is compared is what happens at the same moment, not what sounds alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import combinations

import librosa
import numpy as np
import torch
from torch import Tensor

from latent_diffusion.settings import MelSettings

TOLERANCE_SECONDS = 0.05  # within which two onsets are one
CHROMA_SECONDS = 0.128  # of a chroma frame
LOWEST_HZ = 130.8128  # of a chroma: C3
_DB_A_NEPER = 20 / np.log(10)


def onset_envelope(log_mel: Tensor, mel: MelSettings) -> np.ndarray:
    """Onset strength (T,): the mean rise in dB from one frame to the next, over the mel bins."""
    db = log_mel.detach().cpu().double().numpy().T * _DB_A_NEPER
    db = np.maximum(db, db.max() - 80.0)
    return librosa.onset.onset_strength(S=db, sr=mel.sample_rate, hop_length=mel.hop_length)


def onset_agreement(one: np.ndarray, other: np.ndarray, mel: MelSettings) -> float:
    """Largest normalised correlation of two onset envelopes (T,) within 50 ms of each other; 0 for a constant one."""
    reach = round(TOLERANCE_SECONDS * mel.sample_rate / mel.hop_length)
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    if scale == 0.0:
        return 0.0
    length = len(one)
    products = (
        one[max(lag, 0) : length + min(lag, 0)] @ other[max(-lag, 0) : length + min(-lag, 0)]
        for lag in range(-reach, reach + 1)
    )
    return max(float(product) for product in products) / scale


def beats(envelope: np.ndarray, mel: MelSettings) -> np.ndarray:
    """Times of the beats in seconds that librosa's tracker finds in an onset envelope (T,).

    Source: Ellis, "Beat tracking by dynamic programming", 2007.
    """
    if not envelope.any():
        return np.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short pieces
        _, frames = librosa.beat.beat_track(onset_envelope=envelope, sr=mel.sample_rate, hop_length=mel.hop_length)
    return np.asarray(frames) * mel.hop_length / mel.sample_rate


def onsets(envelope: np.ndarray, mel: MelSettings) -> np.ndarray:
    """Times in seconds of the peaks of an onset envelope (T,)."""
    if not envelope.any():
        return np.zeros(0)
    return librosa.onset.onset_detect(
        onset_envelope=envelope, sr=mel.sample_rate, hop_length=mel.hop_length, units="time"
    )


def f_measure(one: np.ndarray, other: np.ndarray, tolerance: float = TOLERANCE_SECONDS) -> float:
    """F-measure of two lists of times in seconds: a time counts where the other list has one within `tolerance`.

    No time is used twice; 0 where a list is empty.
    """
    hits, i, j = 0, 0, 0
    one, other = np.sort(one), np.sort(other)
    while i < len(one) and j < len(other):  # the earliest pairs first give the largest matching on a line
        if abs(one[i] - other[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(one) + len(other)) if hits else 0.0


def chroma(waveform: Tensor, sample_rate: int) -> np.ndarray:
    """Energy of the twelve pitch classes (12, T'), in frames of some 128 ms, from a constant-Q transform from C3 up.

    Four octaves, or what the sample rate has; of bass they hold the overtones, which tell its pitch class more surely
    than fundamentals that lie a few hertz apart.

    Args:
        waveform: (N,) in [-1, 1].
        sample_rate: hz.
    """
    hop = max(256, round(CHROMA_SECONDS * sample_rate / 256) * 256)
    octaves = min(4, math.floor(math.log2(sample_rate / 2 / LOWEST_HZ)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short pieces
        spectrum = librosa.cqt(
            waveform.detach().cpu().numpy(),
            sr=sample_rate,
            hop_length=hop,
            fmin=LOWEST_HZ,
            n_bins=12 * octaves,
            tuning=0.0,
        )
    return (np.abs(spectrum) ** 2).reshape(octaves, 12, -1).sum(0)


def chroma_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation over the twelve pitch classes of two chromas (12, T'), a mean over frames weighted by `one`'s level.

    Frames in which either is silent do not count; 0 where none is left.
    """
    frames = min(one.shape[1], other.shape[1])
    one, other = np.sqrt(one[:, :frames]), np.sqrt(other[:, :frames])
    weights = np.linalg.norm(one, axis=0) * (np.linalg.norm(other, axis=0) > 1e-3 * np.linalg.norm(other, axis=0).max())
    one, other = one - one.mean(0), other - other.mean(0)
    scale = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    usable = (scale > 0) & (weights > 0)
    if not usable.any():
        return 0.0
    values = (one * other).sum(0)[usable] / scale[usable]
    return float(np.average(values, weights=weights[usable]))


def pairwise_onsets(envelopes: Sequence[np.ndarray], mel: MelSettings) -> Tensor:
    """All stems of an item in one vector: the `onset_agreement` of every pair, (S * (S - 1) / 2,) float64.

    Stems of different songs differ from a song's own in this, while every stem for itself looks the same. (Mel frames
    of all stems side by side do not serve: their covariance tells songs apart, not whether stems belong together.)

    Args:
        envelopes: S onset envelopes (T,) of aligned stems.
        mel: gives the frame rate.
    """
    pairs = combinations(envelopes, 2)
    return torch.tensor([onset_agreement(one, other, mel) for one, other in pairs], dtype=torch.float64)
