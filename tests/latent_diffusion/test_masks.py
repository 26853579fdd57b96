"""Masks on the mixture's own spectrum: they add up, keep what the mixture is, and separate when the model is right."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage import LogMel
from latent_diffusion.first_stage.mel import SILENCE
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mask_mixture, masks
from latent_diffusion.inference.masks import MaskFilter, filter_stream, soft_masks
from latent_diffusion.resampling import resample
from latent_diffusion.settings import MelSettings
from latent_diffusion.tasks import MaskSettings, Separation
from tests.tiny import MEL, STEMS, pipeline, tones
from utilities.evaluation.metrics import si_sdr_improvement

PUBLISHED = MelSettings()
FAST = SamplingSettings(steps=2, batch_size=3)


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    return pipeline()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_shares() -> None:
    log_mels = noise(3, 7, 64) * 20 - 4
    for exponent in (0.5, 1.0, 2.0, 8.0):
        masks = soft_masks(log_mels, exponent)
        assert masks.shape == (3, 7, 65) and bool((masks >= 0).all())
        torch.testing.assert_close(masks.sum(0), torch.ones(7, 65))
        power = log_mels.clamp(min=SILENCE).double().exp() ** exponent
        torch.testing.assert_close(masks[..., :64], (power / power.sum(0)).float(), atol=1e-5, rtol=0)
        top = power[..., -8:].sum(-1)
        torch.testing.assert_close(masks[..., 64], (top / top.sum(0)).float(), atol=1e-5, rtol=0)


def test_silent_and_broken_log_mels_share_alike() -> None:
    for value in (SILENCE, -50.0, -math.inf, math.nan):
        torch.testing.assert_close(soft_masks(torch.full((4, 2, 16), value)), torch.full((4, 2, 17), 0.25))
    broken = torch.zeros(2, 3, 16)
    broken[0, 1] = math.inf
    assert bool(soft_masks(broken).isfinite().all())


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100, 48_000, 44_101])
def test_bands_meet_their_frequencies(rate: int) -> None:
    """A share that grows with frequency stays that function of frequency, on any grid; above the band it holds."""
    matrix = MaskFilter(PUBLISHED, rate).bands_to_bins
    torch.testing.assert_close(matrix.sum(0), torch.ones(matrix.shape[1]))
    basis = LogMel(PUBLISHED).mel_basis
    hz = torch.linspace(0, 8000, len(basis))
    centres = (basis * hz[:, None]).sum(0) / basis.sum(0)
    share = torch.cat([centres, torch.tensor([8800.0])]) @ matrix
    bins = torch.linspace(0, rate / 2, matrix.shape[1])
    expected = bins.clamp(float(centres[0]), 8800.0)
    torch.testing.assert_close(share, expected, atol=2.0, rtol=0)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (16_000, 2), (8000, 3), (11_025, 24)])
@pytest.mark.parametrize("samples", [1, 50, 30_011])
def test_stems_sum_to_the_mixture(rate: int, channels: int, samples: int) -> None:
    mixture = noise(channels, samples) * 4  # beyond [-1, 1], too
    made = mask_mixture(mixture, rate, noise(4, 60, 64, seed=1) * 20 - 4, PUBLISHED)
    assert made.shape == (4, channels, samples)
    assert float((made.sum(0) - mixture).abs().max()) < 1e-5


def test_silence_stays_silent() -> None:
    mixture = noise(2, 44_100)
    mixture[:, 10_000:30_000] = 0.0
    made = mask_mixture(mixture, 44_100, noise(3, 100, 64) * 20, PUBLISHED)
    assert float(made[..., 16_000:24_000].abs().max()) < 1e-7
    assert not mask_mixture(torch.zeros(2, 9000), 44_100, noise(3, 20, 64), PUBLISHED).any()


def test_equal_shares_are_the_mixture_itself() -> None:
    """Masks of 1/S everywhere: phase, stereo image and what lies above the model's band stay as they are."""
    mixture = noise(2, 44_100)
    made = mask_mixture(mixture, 44_100, torch.zeros(4, 100, 64), PUBLISHED)
    torch.testing.assert_close(made, (mixture / 4).expand(4, 2, -1), atol=1e-6, rtol=0)


def test_above_the_band_the_highest_bands_decide() -> None:
    """A 15 kHz tone goes to the stem that has the model's top band; a 6 kHz edge does not matter to a 200 Hz tone."""
    t = torch.arange(44_100) / 44_100
    high, low = torch.sin(2 * torch.pi * 15_000 * t), torch.sin(2 * torch.pi * 200 * t)
    log_mels = torch.full((2, 101, 64), SILENCE)
    log_mels[0, :, 56:] = 0.0
    log_mels[1, :, :20] = 0.0
    made = mask_mixture((high + low)[None], 44_100, log_mels, PUBLISHED)[:, 0]
    inner = slice(4000, 40_000)
    torch.testing.assert_close(made[0, inner], high[inner], atol=1e-2, rtol=0)
    torch.testing.assert_close(made[1, inner], low[inner], atol=1e-2, rtol=0)


def test_true_log_mels_separate() -> None:
    """An oracle: stems that sound at other times and pitches come back almost whole, at another rate, in stereo."""
    rate = 22_050
    t = torch.arange(2 * rate) / rate
    first = torch.sin(2 * torch.pi * 220 * t) * (0.4 + 0.3 * torch.sin(2 * torch.pi * 2 * t))
    second = noise(2 * rate) * (torch.sin(2 * torch.pi * 1.5 * t) > 0)
    stems = torch.stack([torch.stack([first, 0.5 * first]), torch.stack([0.3 * second, second])])
    mixture = stems.sum(0)
    log_mels = LogMel(PUBLISHED)(resample(stems.mean(1), rate, 16_000))
    made = mask_mixture(mixture, rate, log_mels, PUBLISHED)
    for estimate, target in zip(made, stems, strict=True):
        assert si_sdr_improvement(estimate, target, mixture) > 8


def test_pieces_do_not_matter() -> None:
    """Long enough that most blocks are filtered before the last log-mels arrive."""
    samples = 30 * 8000
    mixture, log_mels = noise(2, samples), (noise(3, 3001, 64) * 0.4).cumsum(1) - 4  # they wander slowly: tones
    strong = torch.rand(121, generator=torch.Generator().manual_seed(2)) < 0.5
    log_mels[2] -= 6 * (torch.arange(3001) % 25 / 25 * strong.repeat_interleave(25)[:3001])[:, None]  # hits, at times
    masker = MaskFilter(PUBLISHED, 8000)
    unsharpened = mask_mixture(mixture, 8000, log_mels, PUBLISHED, rounds=0)

    def run(sizes: list[int]) -> list[Tensor]:
        read = lambda start, count: mixture[:, start : start + count]  # noqa: E731
        return list(filter_stream(read, samples, log_mels.split(sizes, dim=1), masker))

    whole = torch.cat(run([3001]), dim=-1)
    assert float((whole - unsharpened).abs().max()) > 0.05
    for sizes in ([1, 300, 5, 1640, 1055], [600, 600, 600, 600, 601]):
        pieces = run(sizes)
        assert len(pieces) > 3
        torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-6, rtol=0)


# ---- in the pipeline


@pytest.mark.parametrize("samples", [1, 4410, 3 * 44_100])
def test_separation_sums_to_a_stereo_recording(tiny: MultiTrackPipeline, samples: int) -> None:
    audio = torch.stack([tones(samples, rate=44_100).sum(0), noise(samples)])
    sampling = replace(FAST, section_windows=4)  # three seconds are several sections
    made = tiny.separate(audio, 44_100, sampling=sampling)
    assert tuple(made) == STEMS and all(stem.shape == (2, samples) for stem in made.values())
    assert float((sum(made.values()) - audio).abs().max()) < 1e-5
    if samples > 4410:
        assert not torch.allclose(made["bass"], audio / 4, atol=1e-2)
        numpy = tiny.separate(audio.numpy(), 44_100, sampling=replace(sampling, batch_size=1))
        torch.testing.assert_close(numpy["bass"], made["bass"], atol=1e-4, rtol=0)


def test_silence_through_the_pipeline(tiny: MultiTrackPipeline) -> None:
    made = tiny.separate(torch.zeros(2, 30_000), 44_100, sampling=FAST)
    assert not any(stem.any() for stem in made.values())


def test_masks_are_the_models(tiny: MultiTrackPipeline) -> None:
    """What the pipeline returns is the mask of the very log-mels that the same seed makes."""
    audio = tones(MEL.window_samples).sum(0)
    audio /= audio.abs().max()  # what is heard in any case
    log_mels = tiny.run(Separation(), audio[None], seeds=(0,), sampling=FAST).log_mels[0]
    expected = mask_mixture(audio[None], MEL.sample_rate, log_mels, MEL, 3.0)
    made = tiny.separate(audio, MEL.sample_rate, sampling=FAST, masks=MaskSettings(exponent=3.0))
    torch.testing.assert_close(torch.stack(list(made.values())), expected)


def test_rounds_reach_the_masks(monkeypatch: pytest.MonkeyPatch, tiny: MultiTrackPipeline) -> None:
    """Through a recording's separation and through a batch's; a percussive stem makes the difference."""
    audio = tones(MEL.window_samples).sum(0)
    audio /= audio.abs().max()  # what is heard in any case
    kind = torch.tensor([0.0, 1.0, 0.2, 0.5])[:, None]
    monkeypatch.setattr(masks, "percussiveness", lambda log_mels, _: kind.expand(-1, log_mels.shape[1]))
    log_mels = tiny.run(Separation(), audio[None], seeds=(0,), sampling=FAST).log_mels[0]
    expected = [mask_mixture(audio[None], MEL.sample_rate, log_mels, MEL, rounds=rounds)[:, 0] for rounds in (0, 2)]
    assert not torch.allclose(*expected, atol=1e-4)
    for rounds, stems in zip((0, None), expected, strict=True):
        asked = MaskSettings() if rounds is None else MaskSettings(rounds=rounds)
        made = tiny.separate(audio, MEL.sample_rate, sampling=FAST, masks=asked)
        torch.testing.assert_close(torch.cat(list(made.values())), stems)
        batch = tiny.run(Separation(masks=asked), audio[None], seeds=(0,), sampling=FAST)
        torch.testing.assert_close(batch.waveforms[0], stems)


def test_masks_suit_the_sampler(tiny: MultiTrackPipeline) -> None:
    """Expected stems hedge: unless asked for otherwise their masks are softer."""
    audio = tones(MEL.window_samples).sum(0)
    for sampling, exponent in ((FAST, 2.0), (SamplingSettings(sampler="mean"), 1.2)):
        usual = tiny.separate(audio, MEL.sample_rate, sampling=sampling)["bass"]
        asked = tiny.separate(audio, MEL.sample_rate, sampling=sampling, masks=MaskSettings(exponent=exponent))["bass"]
        assert torch.equal(usual, asked)
        harder = tiny.separate(audio, MEL.sample_rate, sampling=sampling, masks=MaskSettings(exponent=2 * exponent))[
            "bass"
        ]
        assert not torch.allclose(usual, harder, atol=1e-4)


def test_unusable_refinements() -> None:
    with pytest.raises(ConfigError, match="refine: found 'wiener', expected one of mask, none"):
        MaskSettings("wiener")
    for exponent in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="mask exponent: found"):
            MaskSettings(exponent=exponent)
    for rounds in (-1, 21):
        with pytest.raises(ConfigError, match=f"mask rounds: found {rounds}, expected 0 to 20"):
            MaskSettings(rounds=rounds)
