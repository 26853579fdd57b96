"""Tones and hits within a mel band: the medians, what counts as percussive, and what sharpening does to shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_diffusion.first_stage import LogMel
from latent_diffusion.inference import mask_mixture
from latent_diffusion.inference.median_filters import median_along, percussiveness, sharpen
from latent_diffusion.settings import MelSettings
from utilities.evaluation.metrics import si_sdr_improvement

MEL = MelSettings()
FRAMES = MEL.sample_rate / MEL.hop_length


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tone_and_hits(seconds: float = 4.0) -> Tensor:
    """A chord that is held, and short bursts of noise, four a second: (2, samples)."""
    t = torch.arange(round(seconds * MEL.sample_rate)) / MEL.sample_rate
    chord = sum(torch.sin(2 * torch.pi * hz * t) for hz in (220, 277, 330, 440, 1760))
    hits = (random(len(t)) - 0.5) * torch.exp(-40 * (t % 0.25)) * 4
    return 0.1 * torch.stack([chord, hits])


@pytest.mark.parametrize("axis", [0, 1])
def test_medians(axis: int) -> None:
    x = random(11, 13)
    around = np.pad(x.numpy(), [(4, 4) if i == axis else (0, 0) for i in range(2)], mode="reflect")
    taps = np.stack([np.roll(around, shift, axis) for shift in (-4, -2, 0, 2, 4)])
    expected = np.median(taps, axis=0)[4:-4] if axis == 0 else np.median(taps, axis=0)[:, 4:-4]
    np.testing.assert_array_equal(median_along(x, axis).numpy(), expected)


def test_what_is_percussive() -> None:
    log_mels = LogMel(MEL)(tone_and_hits())
    chord, hits = percussiveness(log_mels, FRAMES)
    assert chord.shape == log_mels.shape[1:2] and float(chord.max()) < 0.05 and float(hits.min()) > 0.95
    torch.testing.assert_close(percussiveness(log_mels - 2.0, FRAMES)[1], hits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 100.0])
def test_a_broken_frame_does_not_matter_later(value: float) -> None:
    log_mels = LogMel(MEL)(tone_and_hits(16.0))
    sound = percussiveness(log_mels, FRAMES)
    log_mels[:, 100] = value
    broken = percussiveness(log_mels, FRAMES)
    assert bool(broken.isfinite().all())
    torch.testing.assert_close(broken[:, 1000:], sound[:, 1000:], atol=1e-4, rtol=0)
    made = mask_mixture(torch.ones(1, 16_000), MEL.sample_rate, log_mels, MEL)
    assert bool(made.isfinite().all())


def test_it_is_heard_where_it_happens() -> None:
    """A stem that is tonal first and percussive 16 seconds later is one after the other."""
    chord, hits = tone_and_hits(16.0)
    later = percussiveness(LogMel(MEL)(torch.cat([chord, hits])[None]), FRAMES)[0]
    assert float(later[:1000].max()) < 0.05 and float(later[-1000:].min()) > 0.95


def test_sharpened_shares_sum_to_one() -> None:
    shares, magnitude = random(3, 30, 25).softmax(0), random(30, 25) ** 8
    magnitude[:, 5:18] = 0.0
    shares[0, :10], shares[1:, :10] = 1.0, 0.0
    percussive = torch.stack([torch.full((25,), value) for value in (0.0, 1.0, 0.3)])
    line = torch.zeros(2, 30, 25)  # a tone, of which one frame is given to the hits
    line[0], line[1, :, 12] = 1.0, 1.0
    line[0, :, 12] = 0.0
    tone = torch.full((30, 25), 1e-9)
    tone[15] = 1.0
    for rounds in (1, 2, 5):
        for made in (sharpen(shares, magnitude, percussive, rounds), sharpen(line, tone, percussive[:2], rounds)):
            assert bool((made >= 0).all())
            torch.testing.assert_close(made.sum(0), torch.ones(30, 25))
    assert sharpen(shares, magnitude, percussive, 0) is shares


def test_stems_of_one_kind_share_as_the_model_says() -> None:
    """Sharpening moves what hits and tones share; stems that are equally percussive keep their proportion."""
    shares, percussive = random(3, 30, 25).softmax(0), torch.tensor([0.1, 0.9, 0.1])[:, None].expand(3, 25)
    made = sharpen(shares, random(30, 25), percussive, 2)
    torch.testing.assert_close(made[0] / made[2], shares[0] / shares[2])
    assert float((made - shares).abs().max()) > 0.1
    alike = percussive[:1].expand(3, 25)
    torch.testing.assert_close(sharpen(shares, random(30, 25), alike, 2), shares)


def test_hedged_masks_are_sharpened() -> None:
    """Masks that give both stems nearly half of everything still separate a chord from hits."""
    stems = tone_and_hits()
    truth, mixture = LogMel(MEL)(stems), stems.sum(0, keepdim=True)
    hedged = 0.9 * truth.logsumexp(0, keepdim=True) + 0.1 * truth

    def improvement(rounds: int) -> list[float]:
        made = mask_mixture(mixture, MEL.sample_rate, hedged, MEL, rounds=rounds)[:, 0]
        return [si_sdr_improvement(x, y, mixture[0]) for x, y in zip(made, stems, strict=True)]

    for plain, sharp in zip(improvement(0), improvement(2), strict=True):
        assert sharp > plain + 3
