"""Do stems belong together: onsets, beats, chroma, on music that is known to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_diffusion.first_stage import LogMel
from latent_diffusion.settings import MelSettings
from utilities.evaluation.coherence import (
    beats,
    chroma,
    chroma_agreement,
    f_measure,
    onset_agreement,
    onset_envelope,
    onsets,
    pairwise_onsets,
)

MEL = MelSettings(frames=512)
RATE, SAMPLES = MEL.sample_rate, MEL.window_samples


def clicks(times: np.ndarray, seed: int = 0) -> Tensor:
    """Short bursts of noise at times in seconds."""
    rng = np.random.default_rng(seed)
    burst = rng.standard_normal(800) * np.exp(-np.arange(800) / 150)
    waveform = np.zeros(SAMPLES + 800)
    for time in times:
        waveform[round(time * RATE) :][:800] += 0.3 * burst
    return torch.from_numpy(waveform[:SAMPLES]).float()


def envelope(times: np.ndarray, seed: int = 0) -> np.ndarray:
    return onset_envelope(LogMel(MEL)(clicks(times, seed)), MEL)


def note(hz: float, seconds: float = 2.0) -> Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    return 0.1 * sum(torch.sin(2 * torch.pi * hz * k * t) / k for k in range(1, 6))


GRID = np.arange(0.3, 4.8, 0.5)  # 120 beats a minute


def test_onsets_agree_where_they_coincide() -> None:
    ours = envelope(GRID)
    assert onset_agreement(ours, envelope(GRID, seed=1), MEL) > 0.9
    assert onset_agreement(ours, envelope(GRID + 0.04, seed=1), MEL) > 0.8  # within the tolerance
    assert onset_agreement(ours, envelope(GRID + 0.2, seed=1), MEL) < 0.2
    irregular = np.sort(np.random.default_rng(3).uniform(0.2, 4.8, len(GRID)))
    assert onset_agreement(ours, envelope(irregular, seed=1), MEL) < 0.5
    assert onset_agreement(ours, np.zeros_like(ours), MEL) == 0.0


def test_onsets_and_beats_lie_where_the_clicks_are() -> None:
    found = onsets(envelope(GRID), MEL)
    assert len(found) == len(GRID) and np.abs(found - GRID).max() < 0.05
    times = beats(envelope(GRID), MEL)
    assert len(times) >= 7 and f_measure(times, GRID) > 0.8
    assert not len(onsets(np.zeros(512), MEL)) and not len(beats(np.zeros(512), MEL))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.04, 2.0, 2.96], 1.0),
        ([1.0, 2.0], [1.06, 2.0], 0.5),
        ([1.0, 1.02], [1.01], 2 / 3),  # no time is used twice
        ([3.0, 1.0], [1.0, 3.0], 1.0),  # in any order
        ([1.0], [], 0.0),
        ([], [], 0.0),
    ],
)
def test_f_measure(one: list[float], other: list[float], expected: float) -> None:
    assert f_measure(np.array(one), np.array(other)) == pytest.approx(expected)


def test_chroma_knows_the_pitch_class_whatever_the_octave() -> None:
    low, high, other = (chroma(note(hz), RATE) for hz in (110.0, 220.0, 155.56))  # A2, A3, E flat 3
    middle = slice(3, -3)
    assert low.shape[0] == 12 and (low[:, middle].argmax(0) == 9).all() and (high[:, middle].argmax(0) == 9).all()
    assert chroma_agreement(low, high) > 0.7 > 0.2 > chroma_agreement(low, other)
    assert chroma_agreement(np.zeros_like(low), high) == 0.0 == chroma_agreement(low, np.zeros_like(high))
    half = high.copy()
    half[:, high.shape[1] // 2 :] = 0.0  # where the others are silent nothing is said
    assert chroma_agreement(low, half) == pytest.approx(chroma_agreement(low, high), abs=0.1)


def test_pairs_of_stems_tell_a_song_from_a_shuffle() -> None:
    song = [envelope(GRID, 1), envelope(GRID[::2], 2), envelope(GRID, 3)]
    shuffle = [envelope(GRID, 1), envelope(GRID[::2] + 0.21, 2), envelope(GRID + 0.13, 3)]
    assert pairwise_onsets(song, MEL).shape == (3,)
    assert pairwise_onsets(song, MEL).min() > 0.5 > pairwise_onsets(shuffle, MEL).max()
