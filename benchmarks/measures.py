"""Whether stems are music: each for itself, and together. Nothing here needs a reference but what its arguments name.

Of waveforms (pulse, contrast, tonal share, key, togetherness; `musicality` gives all of a song's), and of log-mels
(onsets and beats of one stem against those of others). Log-mels (T, M) are natural.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations

import librosa
import numpy as np
import torch
from torch import Tensor

from latent_diffusion.resampling import resample
from latent_diffusion.settings import MelSettings
from utilities.evaluation.metrics import is_silent

SAMPLE_RATE = 16_000  # hz, of every waveform that is measured
HOP = 160  # samples between frames of a waveform's onset envelope: 10 ms
UNPITCHED = ("drums",)
PULSE_SECONDS = (0.2, 2.0)  # between two beats
_QUIET_RISE = 1e-3  # dB: contrast takes a median below this for this, as it is 0 where half of the frames are silence
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)  # Krumhansl and Kessler, 1982
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
TOLERANCE_SECONDS = 0.05  # within which two onsets are one
CHROMA_SECONDS = 0.128  # of a chroma frame
LOWEST_HZ = 130.8128  # of a chroma: C3
_DB_A_NEPER = 20 / np.log(10)


# ---- of waveforms


def musicality(stems: Mapping[str, Tensor], sample_rate: int) -> dict[str, float | None]:
    """Every measure of one window of a song that needs no reference.

    Args:
        stems: waveforms (N,) in [-1, 1] by name, of one length. All but `drums` have a pitch.
        sample_rate: hz.

    Returns:
        `{"drums: pulse", "drums: contrast, dB", "<stem>: tonal" for every other stem, "key", "together"}`; None where
        what is measured is silent. Key is that of all but the drums, together that of the drums with all others.
    """
    low = {name: resample(waveform, sample_rate, SAMPLE_RATE) for name, waveform in stems.items()}
    audio = {name: waveform.numpy() for name, waveform in low.items() if not is_silent(waveform)}
    found: dict[str, float | None] = dict.fromkeys(measured(list(stems)))
    for name, waveform in audio.items():
        if name in UNPITCHED:
            onset = envelope(waveform)
            found[f"{name}: pulse"], found[f"{name}: contrast, dB"] = pulse(onset), contrast(onset)
        else:
            found[f"{name}: tonal"] = tonal_share(waveform)
    pitched = [waveform for name, waveform in audio.items() if name not in UNPITCHED]
    if pitched:
        found["key"] = key_clarity(sum(pitched))
    if pitched and "drums" in audio:
        reach = round(TOLERANCE_SECONDS * SAMPLE_RATE / HOP)
        found["together"] = best_correlation(envelope(audio["drums"]), envelope(sum(pitched)), reach)
    return found


def measured(stems: Sequence[str]) -> list[str]:
    """The names of what `musicality` finds of these stems, in the order of its tables."""
    drums = [f"{name}: {what}" for name in stems if name in UNPITCHED for what in ("pulse", "contrast, dB")]
    pitched = [name for name in stems if name not in UNPITCHED]
    together = ["together"] if drums and pitched else []
    return [*drums, *(f"{name}: tonal" for name in pitched), *(["key"] if pitched else []), *together]


def envelope(waveform: np.ndarray) -> np.ndarray:
    """Onset strength (T,) of a waveform (N,) at `SAMPLE_RATE`: the mean rise in dB over 10 ms, over 128 mel bins."""
    return librosa.onset.onset_strength(y=waveform, sr=SAMPLE_RATE, hop_length=HOP)


def pulse(envelope: np.ndarray) -> float:
    """How regularly onsets come: 1 for a metronome, some 0.1 for noise, 0 where nothing repeats.

    The largest peak between 0.2 and 2 s of the autocorrelation (unbiased, normalised by lag 0) of an onset envelope
    (T,), its mean removed.
    """
    centred = envelope - envelope.mean()
    first, last = (round(seconds * SAMPLE_RATE / HOP) for seconds in PULSE_SECONDS)
    lags = np.arange(first - 1, min(last + 2, len(centred) - 1))  # a peak needs neighbours
    power = float(centred @ centred) / len(centred)
    if power == 0.0 or len(lags) < 3:
        return 0.0
    values = np.array([centred[lag:] @ centred[:-lag] / (len(centred) - lag) for lag in lags]) / power
    peaks = values[1:-1][librosa.util.localmax(values)[1:-1]]
    return max(float(peaks.max()), 0.0) if len(peaks) else 0.0


def contrast(envelope: np.ndarray) -> float:
    """How far hits stand out, in dB: the 95th percentile of an onset envelope (T,) over its median (20 log10).

    Some 2 dB for steady noise, 20 to 45 dB for drums, more where there is silence between hits.
    """
    high, middle = np.percentile(envelope, [95, 50]).clip(min=_QUIET_RISE)
    return float(20 * np.log10(high / middle))


def tonal_share(waveform: np.ndarray) -> float:
    """How much of the energy of a waveform (N,) at `SAMPLE_RATE` is in held tones: 1 for a sine, 0 for clicks.

    The energy of the harmonic part of a harmonic-percussive separation (2048 samples a frame, margin 1), over that of
    both parts. White noise, which is neither, has 0.5.

    Source: Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx 2010.
    """
    spectrum = np.abs(librosa.stft(waveform, n_fft=2048))
    parts = librosa.decompose.hpss(spectrum, margin=1.0)
    harmonic, percussive = (float(np.square(part).sum()) for part in parts)
    return harmonic / (harmonic + percussive) if harmonic + percussive else 0.0


def key_clarity(waveform: np.ndarray) -> float:
    """How clearly a waveform (N,) at `SAMPLE_RATE` is in a key: correlation of its mean chroma with the best of 24.

    Those are the profiles of the major and minor keys. Some 0.9 for a scale; noise has 0.4 to 0.7, as the best of 24
    fits anything a little.

    Source: Krumhansl, "Cognitive Foundations of Musical Pitch", 1990, chapter 4.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short pieces, and of an empty set of tuning frequencies
        mean = librosa.feature.chroma_cqt(y=waveform, sr=SAMPLE_RATE).mean(1)
    if np.ptp(mean) == 0.0:
        return 0.0
    profiles = [np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)]
    return max(float(np.corrcoef(mean, profile)[0, 1]) for profile in profiles)


# ---- of log-mels, and of what comes of them


def onset_envelope(log_mel: Tensor, mel: MelSettings) -> np.ndarray:
    """Onset strength (T,): the mean rise in dB from one frame to the next, over the mel bins."""
    db = log_mel.detach().cpu().double().numpy().T * _DB_A_NEPER
    db = np.maximum(db, db.max() - 80.0)
    return librosa.onset.onset_strength(S=db, sr=mel.sample_rate, hop_length=mel.hop_length)


def onset_agreement(one: np.ndarray, other: np.ndarray, mel: MelSettings) -> float:
    """`best_correlation` of two onset envelopes (T,) within 50 ms of each other."""
    return best_correlation(one, other, round(TOLERANCE_SECONDS * mel.sample_rate / mel.hop_length))


def best_correlation(one: np.ndarray, other: np.ndarray, reach: int) -> float:
    """Largest normalised correlation of two series (T,) at most `reach` frames apart; 0 for a constant one."""
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
