"""Separate, generate and arrange on waveforms of every kind, with a tiny model of random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mix
from latent_diffusion.tasks import Arrangement, Generation, MaskSettings, Separation, make_task
from tests.tiny import MEL, STEMS, pipeline, tones

FAST = SamplingSettings(steps=2, batch_size=2)
RATE, WINDOW = MEL.sample_rate, MEL.window_samples


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    return pipeline()


def mixture(samples: int, rate: int = RATE) -> Tensor:
    return tones(samples, rate=rate).sum(0).clamp(-1, 1)


def check(made: dict[str, Tensor], samples: int, stems: tuple[str, ...] = STEMS) -> None:
    assert tuple(made) == stems
    for waveform in made.values():
        assert waveform.shape == (1, samples) and waveform.dtype == torch.float32
        assert bool(waveform.isfinite().all()) and float(waveform.abs().max()) <= 1


# ---- lengths, channels, rates


@pytest.mark.parametrize("samples", [1, 400, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 17])
def test_any_length(tiny: MultiTrackPipeline, samples: int) -> None:
    check(tiny.separate(mixture(samples), RATE, sampling=FAST), samples)
    check(tiny.generate(samples / RATE, sampling=FAST), samples)
    given = dict(zip(STEMS[:2], tones(samples, 2), strict=True))
    check(tiny.arrange(given, RATE, sampling=FAST), samples)


def test_default_length_is_one_window(tiny: MultiTrackPipeline) -> None:
    check(tiny.generate(sampling=FAST), WINDOW)


def test_stereo_is_mixed_down(tiny: MultiTrackPipeline) -> None:
    left, right = tones(WINDOW, 2)
    mono = tiny.separate((left + right) / 2, RATE, sampling=FAST, masks=MaskSettings("none"))
    stereo = tiny.separate(torch.stack([left, right]).numpy(), RATE, sampling=FAST, masks=MaskSettings("none"))
    check(stereo, WINDOW)
    for name in STEMS:
        torch.testing.assert_close(stereo[name], mono[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [2000, 11_025, 44_100])
def test_other_rates_are_resampled(tiny: MultiTrackPipeline, rate: int) -> None:
    samples = int(0.5 * rate)
    found = tiny.separate(mixture(samples, rate).double().numpy(), rate, sampling=FAST, masks=MaskSettings("none"))
    check(found, -(-samples * RATE // rate))
    resampled = torchaudio.functional.resample(mixture(samples, rate), rate, RATE)
    expected = tiny.separate(resampled, RATE, sampling=FAST, masks=MaskSettings("none"))
    for name in STEMS:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0)


# ---- randomness


def test_seeds(tiny: MultiTrackPipeline) -> None:
    audio = mixture(2 * WINDOW)
    state = torch.get_rng_state()
    first, again, other = (tiny.separate(audio, RATE, seed=seed, sampling=FAST) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's business"
    for name in STEMS:
        assert torch.equal(first[name], again[name])
        assert not torch.allclose(first[name], other[name], atol=1e-3)
    made = [tiny.generate(seed=seed, sampling=FAST)["drums"] for seed in (3, 3, 4)]
    assert torch.equal(made[0], made[1]) and not torch.allclose(made[0], made[2], atol=1e-3)


def test_a_window_does_not_depend_on_its_batch(tiny: MultiTrackPipeline) -> None:
    audio = mixture(5 * WINDOW)
    one, four = (tiny.separate(audio, RATE, sampling=replace(FAST, batch_size=size)) for size in (1, 4))
    for name in STEMS:
        torch.testing.assert_close(one[name], four[name], atol=1e-4, rtol=0)
    assert not torch.allclose(one["bass"][:, :WINDOW], one["bass"][:, WINDOW : 2 * WINDOW], atol=1e-3)


# ---- tasks


def test_the_mixture_takes_part_as_the_scale_says(tiny: MultiTrackPipeline) -> None:
    audio = mixture(WINDOW)
    plain = tiny.separate(audio, RATE, sampling=FAST)
    assert not torch.allclose(plain["bass"], tiny.separate(0.2 * audio, RATE, sampling=FAST)["bass"], atol=1e-3)
    strong = tiny.separate(audio, RATE, guidance=4.0, sampling=FAST)
    assert not torch.allclose(plain["bass"], strong["bass"], atol=1e-3)
    one_each = tiny.separate(audio, RATE, guidance=[1.0] * 4, sampling=FAST)
    assert all(torch.equal(plain[name], one_each[name]) for name in STEMS)


def test_given_stems_come_back_unchanged(tiny: MultiTrackPipeline) -> None:
    samples = WINDOW + 100
    given = {"piano": tones(samples, 1)[0].numpy(), "drums": tones(samples, 1, seed=2)}
    made = tiny.arrange(given, RATE, sampling=FAST)
    assert torch.equal(made["piano"][0], torch.from_numpy(given["piano"])) and torch.equal(
        made["drums"], given["drums"]
    )
    assert float(made["bass"].abs().max()) > 0 and not torch.equal(made["bass"], made["guitar"])
    louder = tiny.arrange(given | {"piano": 0.3 * given["piano"]}, RATE, sampling=FAST)
    assert not torch.allclose(louder["bass"], made["bass"], atol=1e-4), "what is made depends on what is given"
    guided = tiny.arrange(given, RATE, guidance=2.0, sampling=FAST)
    assert not torch.allclose(guided["bass"], made["bass"], atol=1e-4)


def test_stems_to_be_made_are_not_listened_to(tiny: MultiTrackPipeline) -> None:
    given = dict(zip(STEMS, tones(WINDOW), strict=True))
    made = tiny.arrange(given, RATE, generate=("bass",), sampling=FAST)
    assert not torch.allclose(made["bass"][0], given["bass"], atol=1e-2)
    without = {name: waveform for name, waveform in given.items() if name != "bass"}
    assert torch.equal(tiny.arrange(without, RATE, sampling=FAST)["bass"], made["bass"])


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_arrangement_of_one_item(tiny: MultiTrackPipeline, scale: float) -> None:
    """The published code fails at batch size 1."""
    stems = tones(WINDOW)[None]
    result = tiny.run(Arrangement(scale, generate=("piano", "bass")), mix(stems), stems, (7,), FAST)
    assert result.generated == ("bass", "piano") and result.stems == STEMS
    assert torch.equal(result.waveforms[:, 1:3], stems[:, 1:3]) and result.log_mels.shape == (1, 4, 32, 16)
    torch.testing.assert_close(result.mixture, result.waveforms.sum(1).clamp(-1, 1))
    kept = tiny.first_stage.waveform_to_log_mel(stems[:, 1:3])
    torch.testing.assert_close(result.log_mels[:, 1:3], kept)


def test_only_what_counts_is_computed(tiny: MultiTrackPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[tuple[int, ...]] = []
    encode = MultiTrackPipeline.encode

    def recording(self: MultiTrackPipeline, waveforms: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        encoded.append(tuple(waveforms.shape))
        return encode(self, waveforms, *rest)

    monkeypatch.setattr(MultiTrackPipeline, "encode", recording)
    stems = tones(WINDOW)[None]
    tiny.run(Separation(), mix(stems), stems, (0,), FAST)
    assert encoded == [(1, WINDOW)]
    tiny.run(Generation(), mix(stems), stems, (0,), FAST)
    assert len(encoded) == 1
    tiny.run(Arrangement(generate=("bass",)), mix(stems), stems, (0,), FAST)
    assert len(encoded) == 4  # the three given stems


@pytest.mark.parametrize("stems", [("vocals", "bass", "rest"), ("all",)])
def test_other_stems(stems: tuple[str, ...]) -> None:
    made = pipeline(stems)
    check(made.separate(mixture(WINDOW), RATE, sampling=FAST), WINDOW, stems)
    check(made.generate(0.1, sampling=FAST), 400, stems)
    if len(stems) > 1:
        given = {"bass": tones(500, 1), "vocals": tones(500, 1)}
        check(made.arrange(given, RATE, sampling=FAST), 500, stems)


# ---- progress


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpm++", "unipc"])
def test_progress_is_monotonic_and_complete(tiny: MultiTrackPipeline, sampler: str) -> None:
    reports: list[tuple[int, int]] = []
    sampling = SamplingSettings(sampler, 3, batch_size=2, overlap=0)
    tiny.separate(mixture(5 * WINDOW), RATE, sampling=sampling, progress=lambda *r: reports.append(r))
    done = [d for d, _ in reports]
    assert {total for _, total in reports} == {10} and done == sorted(done) and done[0] == 1 and done[-1] == 10
    assert 9 in done, "the network's part, then that of the masks"


# ---- bad input


def with_nan(samples: int = 100) -> Tensor:
    audio = mixture(samples)
    audio[3] = float("nan")
    return audio


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (with_nan(), "mixture: contains values that are not finite"),
        (np.full(9, np.inf), "not finite"),
        (torch.zeros(0), "mixture: .* found shape \\(0,\\)"),
        (torch.zeros(2, 0), "mixture: .* found shape \\(2, 0\\)"),
        (torch.zeros(1, 2, 3), "found shape \\(1, 2, 3\\)"),
        (torch.tensor(1.0), "found shape \\(\\)"),
    ],
)
def test_unusable_mixtures(tiny: MultiTrackPipeline, audio: Tensor | np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny.separate(audio, RATE, sampling=FAST)


@pytest.mark.parametrize("rate", [0, -1, 44_100.5, None, "44100", float("inf")])
def test_unusable_rates(tiny: MultiTrackPipeline, rate: object) -> None:
    with pytest.raises(DataError, match=f"mixture: .*sample rate.* {rate!r}"):
        tiny.separate(mixture(100), rate, sampling=FAST)


@pytest.mark.parametrize("seconds", [0, -1.0, 1e-5, float("nan"), float("inf")])
def test_unusable_lengths(tiny: MultiTrackPipeline, seconds: float) -> None:
    with pytest.raises(DataError, match="seconds: found"):
        tiny.generate(seconds, sampling=FAST)


def test_unusable_stems(tiny: MultiTrackPipeline) -> None:
    bass, drums, guitar, piano = tones(500)
    given = {"bass": bass, "drums": drums}

    def raises(message: str, stems: dict[str, Tensor], **options: object) -> None:
        with pytest.raises(DataError, match=message) as caught:
            tiny.arrange(stems, RATE, sampling=FAST, **options)
        assert "\n" not in str(caught.value)

    raises("'flute' is not one of the model's: bass, drums, guitar, piano", given | {"flute": piano})
    raises("found bass 0.12 s, drums 0.12 s, piano 0.02 s; expected all of one length", given | {"piano": piano[:80]})
    raises("nothing is kept: all of bass, drums, guitar, piano are to be made", given, generate=STEMS)
    raises("'guitar' is neither given nor to be made", given, generate=("piano",))
    raises("bass: contains values that are not finite", given | {"bass": with_nan(500)})
    raises("nothing is kept", {})
    repeated = tiny.arrange({"bass": bass}, RATE, ("drums", "drums", "guitar", "piano"), sampling=FAST)
    assert torch.equal(repeated["bass"][0], bass), "a stem that is named twice is made once"
    raises("'flute'", dict(zip(STEMS, (bass, drums, guitar, piano), strict=True)), generate=("flute",))
    raises("nothing to make", dict(zip(STEMS, (bass, drums, guitar, piano), strict=True)))


def test_unusable_tasks(tiny: MultiTrackPipeline) -> None:
    audio = mixture(WINDOW)
    with pytest.raises(ConfigError, match="separation: guidance scale 0"):
        tiny.separate(audio, RATE, guidance=0)
    with pytest.raises(ConfigError, match="guidance scale: found 2 numbers, expected one or 4"):
        tiny.separate(audio, RATE, guidance=[1.0, 2.0], sampling=FAST)
    with pytest.raises(ConfigError, match="sampler: found 'euler'"):
        tiny.separate(audio, RATE, sampling=SamplingSettings("euler", 2))
    with pytest.raises(ConfigError, match="sampling steps: found 0"):
        tiny.separate(audio, RATE, sampling=SamplingSettings(steps=0))
    with pytest.raises(ConfigError, match="task: found 'remix', expected one of separation, generation, arrangement"):
        make_task("remix")
    with pytest.raises(DataError, match="separation: a mixture is needed"):
        tiny.run(Separation(), seeds=(0,), sampling=FAST)
    with pytest.raises(DataError, match="arrangement: the given stems are needed"):
        tiny.run(Arrangement(generate=("bass",)), seeds=(0,), sampling=FAST)


def test_spacing_interval_and_precision_take_part(tiny: MultiTrackPipeline) -> None:
    audio = mixture(WINDOW)

    def run(**changes: object) -> Tensor:
        sampling = replace(FAST, steps=4, sampler="dpm++", **changes)
        return tiny.separate(audio, RATE, guidance=3.0, sampling=sampling, masks=MaskSettings("none"))["bass"]

    plain = run()
    assert torch.equal(plain, run(spacing="logsnr")) and not torch.allclose(plain, run(spacing="karras"), atol=1e-3)
    assert not torch.allclose(plain, run(guidance_interval=(0.0, 0.5)), atol=1e-3)
    rounded = run(precision="bfloat16")
    assert rounded.dtype == torch.float32 and not torch.equal(plain, rounded)
    assert float((plain - rounded).norm() / plain.norm()) < 0.2
    for interval in ((0.9, 0.1), (-0.1, 0.5), (0.0, 1.5), (0.5,)):
        with pytest.raises(ConfigError, match="guidance interval: found"):
            SamplingSettings(guidance_interval=interval)
    with pytest.raises(ConfigError, match="precision: found 'int4', expected one of float32, bfloat16"):
        SamplingSettings(precision="int4")
