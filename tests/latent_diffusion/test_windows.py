"""Windows that are blended at every step, and pieces that are made in sections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latent_diffusion.diffusion import NoiseSchedule, guided_denoiser, noise_levels, sample
from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.errors import ConfigError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings
from latent_diffusion.inference.denoise import Denoising
from latent_diffusion.inference.sections import crossfade, plan_sections
from latent_diffusion.inference.windows import Windows, blended_denoiser
from latent_diffusion.noise import generators
from latent_diffusion.settings import DiffusionSettings
from latent_diffusion.tasks import MaskSettings
from tests.tiny import MEL, STEMS, pipeline, tones

RATE, WINDOW = MEL.sample_rate, MEL.window_samples
FAST = SamplingSettings(steps=2, batch_size=3)


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    return pipeline()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (17, 4), (40, 4), (41, 0), (100, 8), (37, 15)])
def test_windows_cover_and_weigh_evenly(length: int, overlap: int) -> None:
    windows = Windows(length, 16, overlap)
    total = windows.blend(torch.ones(2, len(windows), 3, 16, 5))
    assert total.shape == (2, 3, length, 5)
    torch.testing.assert_close(total, torch.ones_like(total))
    x = random(2, 3, length, 5)
    torch.testing.assert_close(windows.blend(windows.cut(x)), x, atol=1e-6, rtol=0)
    assert all(b - a <= 16 - overlap for a, b in zip(windows.starts, windows.starts[1:], strict=False))
    assert windows.starts[-1] + 16 == length
    fine = windows.scaled(3)
    assert fine.starts == [3 * start for start in windows.starts] and fine.blend(fine.cut(x.repeat(1, 1, 3, 1))).any()


def test_nearer_to_the_middle_counts_more() -> None:
    weights = Windows(28, 16, 4).weights
    assert torch.equal(weights[0, :12], torch.ones(12)) and bool((weights[0, 12:].diff() < 0).all())
    torch.testing.assert_close(weights[0, 12:] + weights[1, :4], torch.ones(4))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_one_window_is_the_plain_denoiser(tiny: MultiTrackPipeline, scale: float) -> None:
    z, condition, t = random(1, 4, 4, 16, 8), random(1, 4, 16, 8, seed=1), torch.tensor([500])
    plain = guided_denoiser(tiny.unet, Condition(condition), scale)(z, t)
    blended = blended_denoiser(
        lambda z, t, c: guided_denoiser(tiny.unet, c, scale)(z, t), Condition(condition), Windows(16, 16, 4), 2
    )
    with torch.no_grad():
        assert torch.equal(blended(z, t), plain)


def test_windows_get_their_part_of_the_condition_and_batches_their_size() -> None:
    sizes = []

    def denoise(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        sizes.append(len(z))
        assert t.tolist() == [7] * len(z)
        return z + 2 * condition.mixture[:, None]

    z, condition = random(1, 4, 4, 52, 8), random(1, 4, 52, 8, seed=1)
    made = blended_denoiser(denoise, Condition(condition), Windows(52, 16, 4), 3)(z, torch.tensor([7]))
    torch.testing.assert_close(made, z + 2 * condition[:, None], atol=1e-5, rtol=0)
    assert sizes == [3, 1]


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpm++"])
def test_constant_denoiser_in_closed_form(sampler: str) -> None:
    """A network that says z0 = c whatever it sees ends in signal * c + sigma * (noise it began with)."""
    schedule = NoiseSchedule(DiffusionSettings(parameterization="x0"))
    denoiser = blended_denoiser(lambda z, t, c: torch.full_like(z, 0.7), Condition(), Windows(40, 16, 4), 2)
    start = random(1, 2, 3, 40, 4)
    z = sample(denoiser, start.shape, schedule, sampler=sampler, steps=20, eta=0.0, z=start)
    levels = noise_levels(schedule, 20, "logsnr" if sampler == "dpm++" else "uniform")
    noise = (start - levels[0].signal * 0.7) / levels[0].sigma
    expected = levels[-1].signal * 0.7 + levels[-1].sigma * noise
    torch.testing.assert_close(z, expected, atol=2e-4, rtol=0)


def test_neighbours_agree_where_they_meet() -> None:
    """Windows that make up their own minds (a network that makes all of a window 1 or -1) leave no step."""
    schedule = NoiseSchedule(DiffusionSettings(parameterization="x0"))

    def own_mind(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return (3 * z.mean((1, 2, 3, 4), keepdim=True)).sign().expand_as(z)

    def largest_step(overlap: int, seed: int) -> float:
        windows = Windows(16 + 3 * (16 - overlap), 16, overlap)
        denoiser = blended_denoiser(own_mind, Condition(), windows, 4)
        shape = (1, 2, 3, windows.length, 4)
        z = sample(denoiser, shape, schedule, steps=20, eta=0.0, noise=generators([seed]))
        return float(z.mean((0, 1, 2, 4)).diff().abs().max())

    side_by_side, blended = (max(largest_step(overlap, seed) for seed in range(4)) for overlap in (0, 8))
    assert side_by_side > 1.5, "the premise: side by side they disagree"
    assert blended < 0.3 * side_by_side


# ---- pieces


def test_long_pieces_do_not_depend_on_the_batch(tiny: MultiTrackPipeline) -> None:
    audio = tones(4 * WINDOW + 123).sum(0)
    made = [
        tiny.separate(audio, RATE, sampling=replace(FAST, batch_size=size), masks=MaskSettings("none"))
        for size in (1, 2, 16)
    ]
    for name in STEMS:
        torch.testing.assert_close(made[0][name], made[1][name], atol=1e-4, rtol=0)
        torch.testing.assert_close(made[0][name], made[2][name], atol=1e-4, rtol=0)
    again = tiny.separate(audio, RATE, sampling=FAST, masks=MaskSettings("none"), seed=1)
    assert not torch.allclose(again["bass"], made[0]["bass"], atol=1e-3)


def test_a_window_alone_is_as_before(tiny: MultiTrackPipeline) -> None:
    audio = tones(WINDOW).sum(0)
    blended, cut = (tiny.separate(audio, RATE, sampling=replace(FAST, overlap=o)) for o in (0.25, 0.0))
    assert all(torch.equal(blended[name], cut[name]) for name in STEMS)


def test_encoding_in_windows_is_close_to_each_windows_own(tiny: MultiTrackPipeline) -> None:
    audio = tones(3 * WINDOW)[0]
    z, log_mel = tiny.encode(audio, generators([0]))
    assert z.shape == (4, 48, 8) and log_mel.shape == (96, 16)
    own, _ = tiny.encode(audio[WINDOW : 2 * WINDOW], generators([0]))
    error = (z[:, 18:30] - own[:, 2:14]).square().mean() / own.var()  # away from the own window's borders
    assert float(error) < 0.1
    decoded, waveform = tiny.decode(z)
    assert decoded.shape == (96, 16) and waveform.shape == (3 * WINDOW,)
    torch.testing.assert_close(tiny.decode(z[:, :16])[0], tiny.decode_log_mels(z[:, :16]))


def test_sections_cover_the_piece() -> None:
    sampling = replace(FAST, section_windows=3)
    for frames in (1, 16, 40, 41, 44, 45, 77, 200, 1000):
        sections = plan_sections(frames, 16, sampling)
        assert sections[0].start == 0 and sections[0].head == 0 and sections[-1].stop == frames
        for a, b in zip(sections, sections[1:], strict=False):
            assert b.start == a.stop - 4 and b.head == 4 and b.stop - b.start > 4
        assert max(s.stop - s.start for s in sections) <= 40
    side_by_side = plan_sections(100, 16, replace(FAST, overlap=0.0))
    assert [(s.start, s.stop, s.batches) for s in side_by_side] == [(0, 48, 1), (48, 96, 1), (96, 100, 1)]


def test_crossfade() -> None:
    x = random(2, 30, 3)
    joined = torch.cat(list(crossfade([(x[:, :12], 4), (x[:, 8:20], 0), (x[:, 20:], 0)])), dim=1)
    assert torch.equal(joined, x)
    ones, zeros = torch.ones(1, 10), torch.zeros(1, 10)
    faded = torch.cat(list(crossfade([(ones, 6), (zeros, 0)])), dim=1)[0]
    assert faded.shape == (14,) and bool((faded[4:10].diff() < 0).all()) and faded[3] == 1 and faded[10] == 0


def test_sections_go_on_from_each_other(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stretch that two sections share is the same music in both: the later one keeps to it."""
    seen = []
    run = Denoising.run

    def watched(self: Denoising, *args: object) -> Tensor:
        z = run(self, *args)
        seen.append((self.batch.head, z.clone()))
        return z

    monkeypatch.setattr(Denoising, "run", watched)
    sampling = replace(FAST, section_windows=2, steps=10)
    samples = 5 * WINDOW
    made = tiny.generate(samples / RATE, sampling=sampling)
    assert made["bass"].shape == (1, samples) and len(seen) == 4
    for (_, _), (head, z) in zip(seen, seen[1:], strict=False):
        assert head is not None and head.shape[-2] == 4
        apart = (z[..., :4, :] - head).square().mean()  # denoise itself only comes close
        assert float(apart) < 0.25 * float(head.var())


def test_progress_of_long_pieces(tiny: MultiTrackPipeline) -> None:
    reports: list[tuple[int, int]] = []
    sampling = replace(FAST, section_windows=3, batch_size=2, sampler="plms", steps=3)
    tiny.generate(6 * WINDOW / RATE, sampling=sampling, progress=lambda *r: reports.append(r))
    done = [d for d, _ in reports]
    assert len({total for _, total in reports}) == 1 and done == sorted(done)
    assert done[0] == 1 and done[-1] == reports[-1][1]


def test_arrangement_keeps_given_stems_over_sections(tiny: MultiTrackPipeline) -> None:
    given = dict(zip(("piano", "drums"), tones(5 * WINDOW + 7, 2), strict=True))
    made = tiny.arrange(given, RATE, sampling=replace(FAST, section_windows=2), guidance={"bass": 2.0})
    assert all(torch.equal(made[name][0], given[name]) for name in given)
    assert made["bass"].shape == (1, 5 * WINDOW + 7) and float(made["bass"].abs().max()) > 0


def test_guidance_by_name(tiny: MultiTrackPipeline) -> None:
    audio = tones(WINDOW).sum(0)
    by_name = tiny.separate(audio, RATE, guidance={"bass": 2.0}, sampling=FAST)
    listed = tiny.separate(audio, RATE, guidance=[2.0, 1.0, 1.0, 1.0], sampling=FAST)
    assert all(torch.equal(by_name[name], listed[name]) for name in STEMS)
    with pytest.raises(ConfigError, match="guidance scale: 'flute' is not one of the model's stems: bass, drums"):
        tiny.separate(audio, RATE, guidance={"flute": 2.0}, sampling=FAST)


@pytest.mark.parametrize("bad", [{"overlap": 1.0}, {"overlap": -0.1}, {"batch_size": 0}, {"section_windows": 1}])
def test_unusable_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="found"):
        SamplingSettings(**bad)
