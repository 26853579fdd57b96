"""What the model hears of a recording does not depend on its level, nor on how its channels lie to each other."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from latent_diffusion.inference import MaskSettings, MultiTrackPipeline, SamplingSettings
from latent_diffusion.inference.hearing import MonoSource, level_of
from latent_diffusion.inference.inputs import ArraySource
from tests.tiny import MEL, STEMS, pipeline, tones

FAST = SamplingSettings(steps=2, batch_size=2)
RATE = MEL.sample_rate


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    return pipeline()


def noise(samples: int, seed: int = 0, channels: int = 1) -> Tensor:
    return 0.2 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def heard(channels: Tensor, rate: int = 16_000, to: int = 16_000) -> Tensor:
    """All of a recording as the model hears it: (samples,)."""
    source = MonoSource(ArraySource(channels, rate, "x"), to)
    return source.read(0, source.samples)[0]


def likeness(found: Tensor, expected: Tensor) -> float:
    """SI-SDR in dB."""
    target = (found @ expected) / (expected @ expected) * expected
    return float(10 * torch.log10((target @ target) / ((found - target) @ (found - target)).clamp(min=1e-20)))


# ---- level


@pytest.mark.parametrize("refine", ["mask", "none"])
def test_stems_do_not_depend_on_the_level(tiny: MultiTrackPipeline, refine: str) -> None:
    audio = tones(3 * MEL.window_samples, 2)
    expected = tiny.separate(audio, RATE, sampling=FAST, masks=MaskSettings(refine))
    for scale in (1e-6, 1e-3, 0.3, 30.0, 1e4):
        made = tiny.separate(scale * audio, RATE, sampling=FAST, masks=MaskSettings(refine))
        for name in STEMS:
            torch.testing.assert_close(made[name] / scale, expected[name], atol=1e-4, rtol=0)


def test_what_is_made_for_given_stems_is_as_loud_as_they_are(tiny: MultiTrackPipeline) -> None:
    given = dict(zip(STEMS[:2], tones(3 * MEL.window_samples, 2), strict=True))
    for guidance in (0.0, 2.0):
        expected = tiny.arrange(given, RATE, guidance=guidance, sampling=FAST)
        for scale in (1e-3, 30.0):
            louder = {name: scale * x for name, x in given.items()}
            made = tiny.arrange(louder, RATE, guidance=guidance, sampling=FAST)
            assert all(torch.equal(made[name][0], louder[name]) for name in given)
            for name in STEMS[2:]:
                torch.testing.assert_close(made[name] / scale, expected[name], atol=1e-4, rtol=0)


def test_what_follows_is_as_loud_as_what_was_there(tiny: MultiTrackPipeline) -> None:
    stems = dict(zip(STEMS, tones(3000), strict=True))
    expected = tiny.generate(0.3, sampling=FAST, continue_from=stems, sample_rate=RATE)
    for scale in (1e-3, 3.0):
        quiet = {name: scale * x for name, x in stems.items()}
        made = tiny.generate(0.3, sampling=FAST, continue_from=quiet, sample_rate=RATE)
        for name in STEMS:
            torch.testing.assert_close(made[name] / scale, expected[name], atol=1e-4, rtol=0)


def test_level_is_that_of_the_loud_part() -> None:
    """Neither rests nor a click count for much; silence has none."""
    music = noise(32_000)[0].clamp(-0.8, 0.8)

    def level(x: Tensor) -> float:
        return level_of(lambda start, count: x[start : start + count], len(x), 16_000)

    assert level(music) == pytest.approx(0.8, abs=0.05)
    rests = torch.cat([1e-4 * noise(320_000, 1)[0], music])
    assert level(rests) == pytest.approx(level(music), abs=0.05)
    clicking = 0.01 * music.repeat(10)
    clicking[1000] = 0.5
    assert level(clicking) == pytest.approx(0.01 * level(music), rel=0.1)
    assert level(torch.zeros(100)) == 1.0 and level(torch.full((1,), -0.25)) == 0.25


def test_long_recordings_are_looked_at_here_and_there() -> None:
    reads = []

    def read(start: int, count: int) -> Tensor:
        reads.append((start, count))
        return torch.full((count,), 0.5)

    assert level_of(read, 16_000 * 3600, 16_000) == 0.5
    assert len(reads) == 600 and reads[-1][0] > 16_000 * 3590 and {count for _, count in reads} == {6400}


# ---- channels


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("kind", ["inverted", "inverted and quieter", "late", "late and inverted", "three"])
def test_channels_that_cancel_are_heard(kind: str, rate: int, caplog: pytest.LogCaptureFixture) -> None:
    music = noise(2 * rate)[0]
    late = torch.cat([torch.zeros(round(0.0005 * rate)), music])[: len(music)]
    channels = {
        "inverted": torch.stack([music, -music]),
        "inverted and quieter": torch.stack([music, -0.8 * music]),
        "late": torch.stack([music, late]),
        "late and inverted": torch.stack([music, -late]),
        "three": torch.stack([music, -music, 0.1 * music]),
    }[kind]
    expected = heard(music[None], rate)
    with caplog.at_level(logging.WARNING):
        found = heard(channels, rate)
    assert likeness(found[1000:-1000], expected[1000:-1000]) > 20
    assert (
        found.square().mean() > 0.5 * expected.square().mean()
        and "recording: channels cancel each other" in caplog.text
    )


def test_what_is_only_in_the_difference_of_channels_is_heard() -> None:
    """Both instruments have the power that they have in the channels: the mean would lose the second."""
    t = torch.arange(32_000) / 16_000
    middle, side = 0.3 * torch.sin(2 * torch.pi * 330 * t), 0.3 * torch.sin(2 * torch.pi * 1500 * t)
    found = heard(torch.stack([middle + side, middle - side]))[4000:-4000]
    for tone in (middle[4000:-4000], side[4000:-4000]):
        assert float(found @ tone / (tone @ tone)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", ["mono", "alike", "panned", "one silent", "unlike", "silence"])
def test_other_channels_are_heard_as_their_mean(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    one, two = noise(64_000, 1)[0], noise(64_000, 2)[0]
    channels = {
        "mono": one[None],
        "alike": torch.stack([one, one]),
        "panned": torch.stack([one + 0.2 * two, 0.3 * one + two]),
        "one silent": torch.stack([one, 0 * one]),
        "unlike": torch.stack([one, two]),
        "silence": torch.zeros(2, 64_000),
    }[kind]
    assert torch.equal(heard(channels), channels.mean(0)) and not caplog.text


def test_where_a_stretch_begins_changes_nothing() -> None:
    music = noise(50_000)[0]
    source = MonoSource(ArraySource(torch.stack([music, -0.9 * music]), 44_100, "x"), 16_000)
    whole = source.read(0, source.samples)
    for start, count in ((0, 100), (777, 3000), (source.samples - 50, 50), (source.samples - 10, 300)):
        expected = torch.nn.functional.pad(whole[:, start : start + count], (0, max(0, start + count - whole.shape[1])))
        torch.testing.assert_close(source.read(start, count), expected, atol=1e-5, rtol=0)


def test_stems_of_inverted_channels(tiny: MultiTrackPipeline) -> None:
    """Cut out of both channels, inverted like these, and the same as those of one channel alone."""
    mono = tones(3 * MEL.window_samples, 2).sum(0)
    expected = tiny.separate(mono, RATE, sampling=FAST)
    made = tiny.separate(torch.stack([mono, -mono]), RATE, sampling=FAST)
    for name in STEMS:
        torch.testing.assert_close(made[name][0], expected[name][0], atol=5e-3, rtol=0)
        torch.testing.assert_close(made[name][1], -made[name][0], atol=1e-5, rtol=0)
