"""What makes a separation better: the posterior mean, averages, further passes, masks in a batch run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latent_diffusion.errors import ConfigError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings
from latent_diffusion.inference.masks import mask_mixtures
from latent_diffusion.noise import generators, randn
from latent_diffusion.tasks import Arrangement, Generation, MaskSettings, Separation
from tests.tiny import MEL, STEMS, batch, model, pipeline, tones

MEAN = SamplingSettings("mean")


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    """A pipeline whose network predicts v."""
    return pipeline()


def test_the_mean_is_the_last_timesteps_guess(tiny: MultiTrackPipeline) -> None:
    """Held against the formula, z0 = sqrt(abar) z - sqrt(1 - abar) v at t = T - 1."""
    mixture = batch(2)["mixture"]
    found = tiny.run(Separation(), mixture, None, [3, 4], MEAN).latents
    sources = generators([3, 4])
    condition = tiny.encode(mixture, sources)[0]
    last = tiny.schedule.num_timesteps - 1
    z = randn((2, 4, *tiny.settings.latent_shape), sources, condition)
    v = tiny.unet(z, torch.tensor([last, last]), condition)
    abar = tiny.schedule.alphas_cumprod[last]
    torch.testing.assert_close(found, abar.sqrt() * z - (1 - abar).sqrt() * v)
    assert abar < 1e-3, "the noise must say next to nothing about the stems"


def test_the_mean_needs_one_call(tiny: MultiTrackPipeline) -> None:
    calls = []
    tiny.separate(tones(900, 1), MEL.sample_rate, sampling=MEAN, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)], "and then the masks'"


def test_averages_of_independent_results(tiny: MultiTrackPipeline) -> None:
    mixture, sampling = batch(2)["mixture"], SamplingSettings(steps=2)
    seeds = [[1, 2], [1 + 1_000_003, 2 + 1_000_003]]
    single = [tiny.run(Separation(), mixture, None, each, sampling) for each in seeds]
    both = tiny.run(Separation(), mixture, None, seeds[0], replace(sampling, average=2))
    assert (single[0].log_mels - single[1].log_mels).abs().max() > 0.01
    torch.testing.assert_close(both.log_mels, (single[0].log_mels + single[1].log_mels) / 2, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(both.latents, (single[0].latents + single[1].latents) / 2, atol=1e-4, rtol=1e-4)
    assert both.waveforms.shape == single[0].waveforms.shape


def test_averaged_posterior_means_are_decoded_once(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], tiny.decode_log_mels

    def watched(z: torch.Tensor, overlap: float) -> torch.Tensor:
        decoded.append(z)
        return decode(z, overlap)

    monkeypatch.setattr(tiny, "decode_log_mels", watched)
    monkeypatch.setattr(tiny.schedule, "settings", replace(tiny.schedule.settings, parameterization="v"))
    both = tiny.run(Separation(), batch(2)["mixture"], None, [1, 2], SamplingSettings(sampler="mean", average=3))
    assert [len(z) for z in decoded] == [2]
    torch.testing.assert_close(decoded[0], both.latents)


@pytest.mark.parametrize("overlap", [0.25, 0.0])
@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_averages_of_whole_songs(tiny: MultiTrackPipeline, seconds: float, overlap: float) -> None:
    """They sum to the song, whatever the batch size; the progress ends where it says."""
    song, calls, made = tones(round(seconds * MEL.sample_rate), 2).numpy(), [], []
    sampling = SamplingSettings(steps=2, average=3, passes=2, overlap=overlap, section_windows=2)
    for size in (1, 4):
        stems = tiny.separate(
            song,
            MEL.sample_rate,
            sampling=replace(sampling, batch_size=size),
            progress=lambda *done: calls.append(done),
        )
        made.append(torch.stack(list(stems.values())))
        assert calls[-1][0] == calls[-1][1] and calls == sorted(calls)
        calls.clear()
    torch.testing.assert_close(made[0].sum(0), torch.from_numpy(song), atol=1e-5, rtol=0)
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)
    alone = tiny.separate(song, MEL.sample_rate, sampling=replace(sampling, average=1))
    assert (made[0] - torch.stack(list(alone.values()))).abs().max() > 1e-3


def test_a_further_pass_starts_from_what_was_cut_out(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one call, at the middle of the schedule, on the cut-out stems with that level's noise."""
    seen = []
    unet = tiny.unet

    def watched(z: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen.append((z, t, condition))
        return unet(z, t, condition)

    monkeypatch.setattr(tiny, "unet", watched)
    mixture = batch(1)["mixture"]
    first = tiny.run(Separation(), mixture, None, [1], MEAN)
    seen.clear()
    both = tiny.run(Separation(), mixture, None, [1], replace(MEAN, passes=2))
    assert [int(t[0]) for _, t, _ in seen] == [tiny.schedule.num_timesteps - 1, 500]
    with torch.no_grad():
        again = tiny.schedule.predict_z0(seen[1][0], unet(*seen[1]), seen[1][1])
    torch.testing.assert_close(both.latents, (first.latents + again) / 2)
    cut = tiny.encode(mask_mixtures(mixture, first.log_mels, MEL, MEAN.mask_exponent, MaskSettings().rounds))[0]
    abar = tiny.schedule.alphas_cumprod[500]
    noise = (seen[1][0] - abar.sqrt() * cut) / (1 - abar).sqrt()
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    assert float((noise * cut).mean() / cut.std()) == pytest.approx(0, abs=0.1)


def test_a_further_pass_cuts_with_the_masks_that_were_asked_for(
    tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the stems' waveforms are made by in the end."""
    heard: list[torch.Tensor] = []
    encode = MultiTrackPipeline.encode

    def recording(self: MultiTrackPipeline, waveforms: torch.Tensor, *rest: object) -> object:
        heard.append(waveforms)
        return encode(self, waveforms, *rest)

    mixture = batch(1)["mixture"]
    first = tiny.run(Separation(), mixture, None, [1], MEAN)
    cut = [mask_mixtures(mixture, first.log_mels, MEL, *how)[0] for how in ((3.0, 0), (MEAN.mask_exponent, 2))]
    assert not torch.allclose(*cut, atol=1e-3), "the premise: it makes a difference"
    monkeypatch.setattr(MultiTrackPipeline, "encode", recording)
    for refine in ("none", "mask"):
        heard.clear()
        tiny.run(Separation(masks=MaskSettings(refine, 3.0, 0)), mixture, None, [1], replace(MEAN, passes=2))
        torch.testing.assert_close(torch.cat(heard[1:]), cut[0])


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("overlap", [0.25, 0.0])
@pytest.mark.parametrize("refine", ["none", "mask"])
def test_progress_counts_network_calls(
    tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch, windows: int, overlap: float, refine: str
) -> None:
    """One by one, and then the rest: for a song, and for a batch of a data set."""
    calls: list[int] = []
    unet = tiny.unet

    def counted(*told: torch.Tensor) -> torch.Tensor:
        calls.append(len(told[0]))
        return unet(*told)

    monkeypatch.setattr(tiny, "unet", counted)
    how = {"steps": 2, "passes": 2, "average": 3, "batch_size": 2, "overlap": overlap, "section_windows": 2}
    sampling, masks = SamplingSettings(**how), MaskSettings(refine)
    mixture = batch(2)["mixture"].repeat(1, windows)
    reports: list[tuple[int, int, int]] = []

    def report(done: int, total: int) -> None:
        reports.append((done, total, len(calls)))

    for run in (
        lambda: tiny.run(Separation(masks=masks), mixture, None, [0, 1], sampling, report),
        lambda: tiny.separate(mixture[0], MEL.sample_rate, masks=masks, sampling=sampling, progress=report),
    ):
        reports.clear()
        calls.clear()
        run()
        done, totals, seen = zip(*reports, strict=True)
        assert len(set(totals)) == 1 and done[-1] == totals[0] and list(done) == sorted(set(done))
        assert set(range(1, len(calls) + 1)) <= set(seen), "a report after each call"
        others = len(STEMS) * (1 if refine == "none" else 0)  # windows of the vocoder are some for each stem
        assert totals[0] > len(calls) and (not others or (totals[0] - len(calls)) % others == 0)
        assert done[0] == 1 and max(calls) <= 2, "batches of the size that was asked for"


def test_masks_in_a_batch_run(tiny: MultiTrackPipeline) -> None:
    mixture = batch(2)["mixture"]
    plain, cut = (
        tiny.run(Separation(masks=MaskSettings(kind)), mixture, None, [0, 1], MEAN) for kind in ("none", "mask")
    )
    torch.testing.assert_close(cut.waveforms.sum(1), mixture, atol=1e-5, rtol=0)
    torch.testing.assert_close(cut.log_mels, plain.log_mels)
    whole = tiny.separate(mixture[0], MEL.sample_rate, sampling=MEAN, masks=MaskSettings("none"))
    assert set(whole) == set(STEMS) and (plain.waveforms - cut.waveforms).abs().max() > 1e-3


def test_what_makes_no_sense(tiny: MultiTrackPipeline) -> None:
    for values, name in (({"average": 0}, "average"), ({"passes": 0}, "passes")):
        with pytest.raises(ConfigError, match=f"{name}: found 0, expected at least 1"):
            SamplingSettings(**values)
    for task in (Generation(), Arrangement(generate=("bass",))):
        for sampling, message in (
            (SamplingSettings(average=2), "average: found 2, expected 1"),
            (SamplingSettings(passes=2), "passes: found 2, expected 1"),
            (MEAN, "sampler 'mean': for separation"),
        ):
            with pytest.raises(ConfigError, match=message):
                tiny.run(task, None, batch(1)["stems"], [0], sampling)
    noise_model = model().eval().pipeline
    with pytest.raises(ConfigError, match="sampler 'mean': the model predicts noise, expected x0 or v"):
        noise_model.separate(tones(900, 1), MEL.sample_rate, sampling=MEAN)
    with pytest.raises(ConfigError, match="refine: found 'clean', expected one of mask, none"):
        MaskSettings("clean")


def test_what_suits_the_network_and_the_use(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks want the expected stems, which a network that predicts noise cannot say; the ear wants a sample."""
    song, rate = tones(900, 1), MEL.sample_rate
    sampled = SamplingSettings("ddim", steps=50, eta=0.0)
    expected = SamplingSettings(sampler="mean", average=4, passes=2)
    for refine, how in (("mask", expected), ("none", sampled)):
        chosen, told = (
            tiny.separate(song, rate, masks=MaskSettings(refine), sampling=sampling) for sampling in (None, how)
        )
        assert all(torch.equal(chosen[name], told[name]) for name in chosen)

    made = tiny.generate(0.2, sampling=SamplingSettings(steps=1), continue_from=song, sample_rate=rate)
    separated = tiny.separate(song, rate, sampling=expected)
    assert all(torch.equal(made[name][:, :500], separated[name][:, :500]) for name in made)
    monkeypatch.setattr(tiny.schedule, "settings", replace(tiny.schedule.settings, parameterization="eps"))
    assert tiny.suited_sampling("mask") == sampled
