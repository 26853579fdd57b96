"""Are stems music, and do they belong together: on sounds of which that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.measures import (
    beats,
    chroma,
    chroma_agreement,
    contrast,
    envelope,
    f_measure,
    key_clarity,
    measured,
    musicality,
    onset_agreement,
    onset_envelope,
    onsets,
    pairwise_onsets,
    pulse,
    tonal_share,
)
from latent_diffusion.first_stage import LogMel
from latent_diffusion.settings import MelSettings

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


def log_mel_envelope(times: np.ndarray, seed: int = 0) -> np.ndarray:
    return onset_envelope(LogMel(MEL)(clicks(times, seed)), MEL)


def note(hz: float, seconds: float = 2.0) -> Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    return 0.1 * sum(torch.sin(2 * torch.pi * hz * k * t) / k for k in range(1, 6))


GRID = np.arange(0.3, 4.8, 0.5)  # 120 beats a minute


def test_onsets_agree_where_they_coincide() -> None:
    ours = log_mel_envelope(GRID)
    assert onset_agreement(ours, log_mel_envelope(GRID, seed=1), MEL) > 0.9
    assert onset_agreement(ours, log_mel_envelope(GRID + 0.04, seed=1), MEL) > 0.8  # within the tolerance
    assert onset_agreement(ours, log_mel_envelope(GRID + 0.2, seed=1), MEL) < 0.2
    irregular = np.sort(np.random.default_rng(3).uniform(0.2, 4.8, len(GRID)))
    assert onset_agreement(ours, log_mel_envelope(irregular, seed=1), MEL) < 0.5
    assert onset_agreement(ours, np.zeros_like(ours), MEL) == 0.0


def test_onsets_and_beats_lie_where_the_clicks_are() -> None:
    found = onsets(log_mel_envelope(GRID), MEL)
    assert len(found) == len(GRID) and np.abs(found - GRID).max() < 0.05
    times = beats(log_mel_envelope(GRID), MEL)
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
    song = [log_mel_envelope(GRID, 1), log_mel_envelope(GRID[::2], 2), log_mel_envelope(GRID, 3)]
    shuffle = [log_mel_envelope(GRID, 1), log_mel_envelope(GRID[::2] + 0.21, 2), log_mel_envelope(GRID + 0.13, 3)]
    assert pairwise_onsets(song, MEL).shape == (3,)
    assert pairwise_onsets(song, MEL).min() > 0.5 > pairwise_onsets(shuffle, MEL).max()


# ---- of waveforms


def noise(seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(SAMPLES).astype(np.float32)


def scale(*semitones: int) -> Tensor:
    """Notes above C4, one after the other, over and over."""
    return torch.cat([note(261.63 * 2 ** (n / 12), 0.4) for n in semitones] * 2)


def test_clicks_have_a_pulse_and_noise_has_none() -> None:
    regular = envelope(clicks(GRID).numpy())
    assert pulse(regular) > 0.9
    assert pulse(envelope(noise())) < 0.25
    irregular = np.sort(np.random.default_rng(3).uniform(0.2, 4.8, len(GRID)))
    assert pulse(envelope(clicks(irregular).numpy())) < 0.5
    assert pulse(np.zeros(512)) == 0.0 == pulse(np.ones(3))
    falling = np.exp(-np.arange(512) / 200)  # correlated with itself everywhere, but nothing comes again
    assert pulse(falling) == 0.0


def test_pulse_is_the_largest_peak_between_a_fifth_of_a_second_and_two() -> None:
    pulses = {}
    for lag in (10, 40, 230):  # frames of 10 ms
        ticks = np.zeros(1024)
        ticks[::lag] = 1.0
        pulses[lag] = pulse(ticks)
    assert pulses[40] == pytest.approx(1.0, abs=0.05)
    assert pulses[10] == pytest.approx(1.0, abs=0.05)  # every second tick is 0.2 s later
    assert pulses[230] < 0.05  # one in 2.3 s is too slow for a beat


def test_hits_stand_out_and_noise_does_not() -> None:
    assert contrast(envelope(noise())) < 4 < 20 < contrast(envelope(clicks(GRID).numpy()))
    assert contrast(np.concatenate([np.ones(90), np.full(10, 10.0)])) == pytest.approx(20.0)
    assert contrast(np.zeros(100)) == 0.0


def test_tones_are_tonal_and_clicks_are_not() -> None:
    assert tonal_share(note(110.0).numpy()) > 0.95
    assert tonal_share(clicks(GRID).numpy()) < 0.05
    assert tonal_share(noise()) == pytest.approx(0.5, abs=0.03)  # neither the one nor the other
    assert tonal_share(np.zeros(4096, np.float32)) == 0.0


def test_a_scale_has_a_key() -> None:
    major, minor = scale(0, 2, 4, 5, 7, 9, 11, 12), scale(0, 2, 3, 5, 7, 8, 10, 12)
    chromatic = scale(*range(12))
    assert min(key_clarity(major.numpy()), key_clarity(minor.numpy())) > 0.85
    assert key_clarity(chromatic.numpy()) < 0.5
    assert np.mean([key_clarity(noise(seed)) for seed in range(4)]) < 0.6
    assert key_clarity(np.zeros(8192, np.float32)) == 0.0


def test_all_measures_of_a_song() -> None:
    tune = torch.zeros(SAMPLES)
    for time in GRID:
        tune[round(time * RATE) :][: RATE // 4] += note(220.0, 0.25) * torch.linspace(1, 0, RATE // 4)
    song = {"bass": tune, "drums": clicks(GRID), "piano": torch.zeros(SAMPLES)}
    found = musicality(song, RATE)
    assert list(found) == measured(["bass", "drums", "piano"])
    assert found["piano: tonal"] is None and found["drums: pulse"] > 0.9 and found["together"] > 0.5
    shifted = musicality(song | {"drums": clicks(GRID + 0.23)}, RATE)
    assert shifted["together"] < 0.3 and shifted["key"] == found["key"]
    assert set(musicality(song | {"drums": torch.zeros(SAMPLES), "bass": torch.zeros(SAMPLES)}, RATE).values()) == {
        None
    }
    assert measured(["vocals"]) == ["vocals: tonal", "key"]
