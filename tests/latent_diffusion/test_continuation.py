"""Going on from a recording: it stays as it is, its end is known, and the rest follows from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings
from latent_diffusion.inference.continuation import _last_latents
from latent_diffusion.resampling import resample
from tests.tiny import MEL, STEMS, pipeline, tones

RATE = MEL.sample_rate
QUICK = SamplingSettings("dpm++", steps=3, section_windows=2)


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    """A pipeline."""
    return pipeline()


def go_on(tiny: MultiTrackPipeline, stems: Tensor, seconds: float = 0.3, seed: int = 0) -> Tensor:
    """Continue stems (4, n): (4, n + made)."""
    given = dict(zip(STEMS, stems, strict=True))
    made = tiny.generate(seconds, seed, QUICK, continue_from=given, sample_rate=RATE)
    assert all(stem.shape == (1, stems.shape[1] + round(seconds * RATE)) for stem in made.values())
    return torch.cat([made[name] for name in STEMS])


@pytest.mark.parametrize("samples", [300, 1280, 1999, 5003])
@pytest.mark.parametrize("seconds", [0.01, 0.9])
def test_the_recording_stays(tiny: MultiTrackPipeline, samples: int, seconds: float) -> None:
    """Up to the last latent frame, over which it fades into what is made; shorter and longer than a window."""
    stems = tones(samples)
    made = go_on(tiny, stems, seconds)
    kept = samples - tiny.latent_hop
    assert torch.equal(made[:, :kept], stems[:, :kept])
    assert made.isfinite().all() and made[:, samples:].abs().amax(1).min() > 0


def test_the_end_of_the_recording_is_known(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the least noisy level the network sees the recording's latents at the beginning of what it looks at."""
    stems, seen = tones(3000), []
    known = _last_latents(tiny, stems, 0)
    unet = tiny.unet

    def watched(z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        seen.append((int(t[0]), z))
        return unet(z, t, condition)

    monkeypatch.setattr(tiny, "unet", watched)
    go_on(tiny, stems)
    assert known.shape[-2] == tiny.settings.latent_shape[1] // 2
    t, z = min(seen, key=lambda pair: pair[0])
    abar = tiny.schedule.alphas_cumprod[t]
    noise = (z[0, ..., : known.shape[-2], :] - abar.sqrt() * known[0]) / (1 - abar).sqrt()
    assert abs(float(noise.std()) - 1) < 0.1 and abs(float(noise.mean())) < 0.1


def test_what_follows_follows_from_the_end(tiny: MultiTrackPipeline) -> None:
    stems = tones(5000)
    other_end, other_start = stems.clone(), stems.clone()
    other_end[:, -600:-200] = 0
    other_start[:, :2000] = 0
    made, again, end, start, seed = (
        go_on(tiny, *arguments)[:, 5000:]
        for arguments in ((stems,), (stems,), (other_end,), (other_start,), (stems, 0.3, 1))
    )
    assert torch.equal(made, again) and torch.equal(made, start)
    assert (made - end).abs().max() > 1e-4 and (made - seed).abs().max() > 1e-4


def test_a_mixture_is_separated_first(tiny: MultiTrackPipeline) -> None:
    mixture, calls = tones(22_050, 2, rate=11_025) / 2, []
    made = tiny.generate(
        0.2,
        sampling=QUICK,
        continue_from=mixture.numpy(),
        sample_rate=11_025,
        progress=lambda *done: calls.append(done),
    )
    total = torch.cat(list(made.values())).sum(0)
    assert len(total) == 2 * RATE + round(0.2 * RATE)
    kept = 2 * RATE - tiny.latent_hop
    heard = resample(mixture.mean(0), 11_025, RATE)
    torch.testing.assert_close(total[:kept], heard[:kept], atol=1e-5, rtol=0)
    assert sum(done == whole for done, whole in calls) == 2, "the separation, then what follows"


def test_what_cannot_be_continued(tiny: MultiTrackPipeline) -> None:
    stems = dict(zip(STEMS, tones(3000), strict=True))
    uneven = {**stems, "bass": stems["bass"][:-500]}
    for given, rate, sampling, error, message in (
        (stems, RATE, SamplingSettings(overlap=0.0), ConfigError, "overlap: found 0, expected above 0"),
        (stems, None, QUICK, DataError, "sample_rate: expected that of continue_from, found none"),
        ({"bass": stems["bass"]}, RATE, QUICK, DataError, "found bass, expected all of bass, drums"),
        (uneven, RATE, QUICK, DataError, "found bass 0.62 s, drums 0.75 s, .* all of one length"),
        ({name: x[:100] for name, x in stems.items()}, RATE, QUICK, DataError, "found 0.025 s, expected at least"),
    ):
        with pytest.raises(error, match=message):
            tiny.generate(0.1, sampling=sampling, continue_from=given, sample_rate=rate)
