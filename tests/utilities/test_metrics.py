"""Metrics against hand calculations, independent implementations and the published implementation's numbers."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from utilities.audio.levels import is_silent, level_dbfs
from utilities.evaluation.frechet import FOLDS, FrameStatistics, FrechetScores
from utilities.evaluation.metrics import (
    CEILING_DB,
    FLOOR_DB,
    MetricTable,
    bootstrap_interval,
    log_mel_mse,
    log_mel_si_sdr,
    sdr,
    si_sdr,
    si_sdr_improvement,
    track_of,
    write_metrics,
)
from utilities.evaluation.scores import score_table
from utilities.evaluation.separation import SeparationScores, Side

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity" / "metrics.npz"


def noise(*shape: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Single values


def test_published_numbers():
    data = np.load(FIXTURE)
    estimates, targets = torch.from_numpy(data["estimate"]), torch.from_numpy(data["target"])
    table = MetricTable()
    for i, (estimate, target) in enumerate(zip(estimates, targets, strict=True)):
        table.add(f"item{i}", "bass", "mse", log_mel_mse(estimate, target))
        table.add(f"item{i}", "bass", "si_sdr", log_mel_si_sdr(estimate, target))
        assert table.values("mse")[i][1] == pytest.approx(float(data[f"pair{i}.mse"]), abs=1e-6)
        assert table.values("si_sdr")[i][1] == pytest.approx(float(data[f"pair{i}.si_sdr_db"]), abs=1e-5)
    assert table.mean("mse") == pytest.approx(float(data["mean_mse"]), abs=1e-6)
    assert table.mean("si_sdr") == pytest.approx(float(data["mean_si_sdr_db"]), abs=1e-5)


def test_log_mel_mse_by_hand():
    assert log_mel_mse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])) == 13 / 4


def test_published_log_mel_si_sdr_by_hand():
    # <e, t> / <t, t> = 14 / 9, projection (14/9)(1, 2, 2), residual energy 28 - 196/9
    value = log_mel_si_sdr(torch.tensor([[2.0, 2.0, 4.0]]), torch.tensor([[1.0, 2.0, 2.0]]))
    assert value == pytest.approx(10 * math.log10((196 / 9) / (24 - 196 / 9)), abs=1e-4)


def test_zero_mean_log_mel_si_sdr_ignores_level_and_published_does_not():
    target = noise(50, 8, scale=1.0) - 6
    other = noise(50, 8, seed=1, scale=1.0) - 6
    assert log_mel_si_sdr(other, target) > 10  # two unrelated log-mels: the shared mean is all that counts
    assert log_mel_si_sdr(other, target, zero_mean=True) < -15
    assert log_mel_si_sdr(target + 3, target, zero_mean=True) > 60
    e, t = (other - other.mean()).double().flatten().numpy(), (target - target.mean()).double().flatten().numpy()
    projection = (e @ t) / (t @ t) * t
    expected = 10 * math.log10((projection @ projection) / ((projection - e) @ (projection - e)))
    assert log_mel_si_sdr(other, target, zero_mean=True) == pytest.approx(expected, abs=1e-3)


def test_si_sdr_by_hand():
    # orthogonal noise of a tenth of the amplitude: 20 dB, at any gain and offset of the estimate
    t = torch.arange(1600) / 1600
    target, disturbance = torch.sin(2 * torch.pi * 10 * t), torch.cos(2 * torch.pi * 10 * t)
    for gain, offset in ((1.0, 0.0), (0.01, 0.0), (-3.0, 0.5)):
        estimate = gain * (target + 0.1 * disturbance) + offset
        assert si_sdr(estimate, target) == pytest.approx(20.0, abs=1e-3)
    mixture = target + disturbance
    assert si_sdr(mixture, target) == pytest.approx(0.0, abs=1e-3)
    assert si_sdr_improvement(target + 0.1 * disturbance, target, mixture) == pytest.approx(20.0, abs=2e-3)
    assert si_sdr(target, target) == CEILING_DB
    assert si_sdr(disturbance, target) < -60


def test_sdr_against_least_squares():
    """SDR by its definition: project the estimate onto 512 delayed copies of the target, here by a dense solver."""
    rng = np.random.default_rng(0)
    target = 0.1 * rng.standard_normal(1500)
    estimate = np.convolve(target, [0.6, 0.0, -0.3, 0.1])[:1500] + 0.02 * rng.standard_normal(1500)
    delayed = scipy.linalg.toeplitz(np.r_[target, np.zeros(511)], np.zeros(512))
    padded = np.r_[estimate, np.zeros(511)]
    projection = delayed @ np.linalg.lstsq(delayed, padded, rcond=None)[0]
    expected = 10 * math.log10((projection**2).sum() / ((padded - projection) ** 2).sum())
    ours = sdr(torch.from_numpy(estimate), torch.from_numpy(target))
    assert ours == pytest.approx(expected, abs=1e-3) and ours > si_sdr(
        torch.from_numpy(estimate), torch.from_numpy(target)
    )


def test_sdr_rules():
    sound, silence = noise(4000), torch.zeros(4000)
    assert sdr(sound, silence) is None and sdr(silence, sound) == FLOOR_DB
    assert math.isnan(sdr(sound * math.nan, sound)) and sdr(2 * sound, sound) > 80
    tone = 0.1 * torch.sin(torch.arange(4000) * 0.3)  # its delayed copies are all alike: singular equations
    assert math.isfinite(sdr(tone + 0.1 * sound, tone)) and sdr(tone, tone) > 80
    stereo, half = torch.stack([sound, sound]), torch.stack([sound, silence])
    assert sdr(half + 0.01 * noise(2, 4000, seed=1), half) == pytest.approx(
        sdr(sound + 0.01 * noise(2, 4000, seed=1)[0], sound)
    )
    assert sdr(stereo, half) > 80  # a channel whose target is silent does not count
    with pytest.raises(ValueError, match="one shape"):
        sdr(sound, sound[1:])


def test_level():
    assert level_dbfs(torch.ones(10)) == 0.0
    assert level_dbfs(0.1 * torch.ones(2, 5)) == pytest.approx(-20.0, abs=1e-6)
    assert level_dbfs(torch.zeros(10)) == -math.inf == level_dbfs(torch.zeros(0))
    assert is_silent(0.00099 * torch.ones(10)) and not is_silent(0.00101 * torch.ones(10))


def test_silence_rules():
    sound, quiet, silence = noise(4000), noise(4000, seed=1, scale=5e-4), torch.zeros(4000)
    assert si_sdr(sound, silence) is None and si_sdr(sound, quiet) is None
    assert si_sdr(sound, torch.full((4000,), 0.5)) is None  # a constant is no sound
    assert si_sdr(silence, sound) == FLOOR_DB == si_sdr(quiet, sound)
    assert si_sdr(silence, silence) is None
    assert si_sdr_improvement(sound, silence, sound) is None
    assert si_sdr_improvement(silence, sound, sound) == FLOOR_DB - CEILING_DB
    mel, silent_mel = noise(20, 8) - 5, torch.full((20, 8), -11.512925)
    assert log_mel_si_sdr(mel, silent_mel, zero_mean=True) is None
    assert log_mel_si_sdr(silent_mel, mel, zero_mean=True) == FLOOR_DB
    assert math.isfinite(log_mel_si_sdr(mel, silent_mel)) and math.isfinite(log_mel_si_sdr(silent_mel, mel))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        si_sdr(torch.ones(3), torch.ones(4))


# The table


def test_means_silent_invalid_and_pairs():
    model, baseline = MetricTable(), MetricTable()
    for item, ours, theirs in (
        ("A_from_0", 4.0, 1.0),
        ("A_from_10", 6.0, 2.0),
        ("B_from_0", 2.0, 3.0),
        ("C_from_0", None, None),
        ("D_from_0", math.nan, 1.0),
    ):
        model.add(item, "bass", "si_sdr", ours)
        baseline.add(item, "bass", "si_sdr", theirs)
    model.add("A_from_0", "drums", "si_sdr", 8.0)
    model.add("A_from_0", "bass", "si_sdr", 4.0)  # the same item again counts once
    summary = model.summary()
    bass = summary["bass"]["si_sdr"]
    assert (bass["mean"], bass["count"], bass["silent"], bass["invalid"], bass["tracks"]) == (4.0, 3, 1, 1, 2)
    assert summary["all"]["si_sdr"]["mean"] == 5.0 and summary["drums"]["si_sdr"]["ci95"] is None
    difference = model.minus(baseline).summary()["bass"]["si_sdr"]
    assert (difference["mean"], difference["count"], difference["silent"]) == (2.0, 3, 1)
    rows = {(row["item"], row["stem"]): row for row in model.rows()}
    assert rows["A_from_10", "bass"] == {"track": "A", "item": "A_from_10", "stem": "bass", "si_sdr": 6.0}
    assert rows["D_from_0", "bass"]["si_sdr"] is None and len(rows) == 6
    json.dumps(summary, allow_nan=False)


def test_merging_equals_collecting():
    whole, parts = MetricTable(), [MetricTable(), MetricTable()]
    for i in range(20):
        whole.add(f"T{i // 3}_from_{i}", "bass", "m", float(i * i))
        parts[i % 2].add(f"T{i // 3}_from_{i}", "bass", "m", float(i * i))
    parts[0].add("T0_from_1", "bass", "m", 1.0)  # padded by a distributed sampler
    parts[0].merge(parts[1])
    assert parts[0].summary() == whole.summary()


def test_empty_table():
    assert MetricTable().summary() == {"all": {}} and MetricTable().mean("si_sdr") is None


def test_bootstrap_over_tracks():
    assert bootstrap_interval([[1.0, 2.0]]) is None
    assert bootstrap_interval([[3.0], [3.0], [3.0]]) == [3.0, 3.0]
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval([[v] for v in values], resamples=2000, seed=1)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)  # the normal interval, which it must come close to
    assert low == pytest.approx(values.mean() - half, abs=0.05) and high == pytest.approx(
        values.mean() + half, abs=0.05
    )
    # ten equal windows of a track are one observation, not ten
    repeated = bootstrap_interval([[v] * 10 for v in values], resamples=2000, seed=1)
    assert repeated == pytest.approx([low, high], abs=1e-9)
    assert bootstrap_interval([[v] for v in values], seed=3) == bootstrap_interval([[v] for v in values], seed=3)


def test_track_names():
    assert track_of("Track00001_from_10") == "Track00001"
    assert track_of("song_from_mars_from_0") == "song_from_mars" and track_of("plain") == "plain"


# Frechet distance


def statistics(*log_mels: torch.Tensor) -> FrameStatistics:
    gathered = FrameStatistics()
    for log_mel in log_mels:
        gathered.add(log_mel)
    return gathered


def test_frechet_against_sqrtm():
    a, b = noise(500, 6, scale=1.0) - 5, noise(400, 6, seed=1, scale=2.0) @ noise(6, 6, seed=2, scale=1.0) - 4
    x, y = a.double().numpy(), b.double().numpy()
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root.real)
    ours = statistics(*a.split(100)).frechet_distance(statistics(b))
    assert ours == pytest.approx(expected, rel=1e-6)
    assert statistics(b).frechet_distance(statistics(a)) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_one_dimension_by_hand():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [9.0]])  # means 1 and 5, variances 2 and 32
    assert statistics(a).frechet_distance(statistics(b)) == pytest.approx(16 + (math.sqrt(32) - math.sqrt(2)) ** 2)


def test_frechet_stays_finite():
    silence, sound = torch.full((30, 8), -11.5), noise(5, 8)  # a zero and a singular covariance
    assert statistics(silence).frechet_distance(statistics(silence)) == pytest.approx(0.0, abs=1e-9)
    assert math.isfinite(statistics(silence).frechet_distance(statistics(sound)))
    assert statistics(sound).frechet_distance(statistics(sound)) == pytest.approx(0.0, abs=1e-6)
    assert FrameStatistics().frechet_distance(statistics(sound)) is None
    assert statistics(sound, sound * math.nan).items == 1


def test_frechet_scores_merge_and_leave_tracks_out():
    log_mels = [noise(40, 4, seed=s, scale=1.0) for s in range(4)]
    whole, one, two = FrechetScores("fad"), FrechetScores("fad"), FrechetScores("fad")
    for part, numbers in ((one, (0, 1)), (two, (2, 3))):
        for number in numbers:
            part.add("bass", f"t{number}", log_mels[number], log_mels[number - 1] + 1)
            whole.add("bass", f"t{number}", log_mels[number], log_mels[number - 1] + 1)
    whole.add("mixture", "t0", log_mels[0], None)
    one.merge(two)
    summary = whole.summary()
    for key in ("fad", "frames", "reference_frames", "items"):
        assert one.summary()["bass"][key] == pytest.approx(summary["bass"][key], rel=1e-9)
    assert summary["all"]["frames"] == 160 and "bass" in score_table({"fad": {"embedding": "any", "stems": summary}})
    assert summary["mixture"]["fad"] is None and summary["mixture"]["ci95"] is None

    # the jackknife by hand: each track in a group of its own
    def distance(kept: list[int]) -> float:
        return statistics(*(log_mels[n] for n in kept)).frechet_distance(
            statistics(*(log_mels[n - 1] + 1 for n in kept))
        )

    left_out = np.array([distance([n for n in range(4) if n != out]) for out in range(4)])
    error = 1.96 * math.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum())
    low, high = summary["bass"]["ci95"]
    assert (low, high) == pytest.approx((max(distance([0, 1, 2, 3]) - error, 0), distance([0, 1, 2, 3]) + error))


def test_a_thousand_clips_take_the_memory_of_a_few():
    scores = FrechetScores("fad")
    for number in range(1000):
        scores.add("bass", f"t{number}", noise(20, 8, seed=number, scale=1.0), noise(20, 8, scale=1.0))
    assert scores.summary()["bass"]["frames"] == 20_000
    assert len(pickle.dumps(scores.results)) < FOLDS * (8 * 8 + 8) * 8 + 10_000


# Separation


def test_separation_scores():
    scores = SeparationScores()
    bass, drums, silent = noise(3200), noise(3200, seed=1), torch.zeros(3200)
    mixture = bass + drums
    mels = {n: noise(20, 8, seed=s, scale=1.0) - 5 for s, n in enumerate(("bass", "drums", "mixture"))}
    quiet = torch.full((20, 8), -11.512925)
    near, mix_mel = mels["bass"] + noise(20, 8, seed=8), mels["mixture"]
    padded = torch.cat([0.9 * bass + 0.1 * drums, torch.ones(32)])  # a vocoder's 32 samples too many
    result = Side({"bass": padded, "drums": noise(3200, seed=4)}, None, {"bass": near, "drums": mels["drums"]})
    target = Side({"bass": bass, "drums": silent}, mixture, {"bass": mels["bass"], "drums": quiet}, mix_mel)
    for stem in ("bass", "drums"):
        scores.add("A_from_0", stem, result, target)
    summary = scores.summary(("bass", "drums"))
    model, baseline = summary["model"], summary["mixture_as_every_stem"]
    assert model["bass"]["si_sdri"]["mean"] == pytest.approx(
        si_sdr(0.9 * bass + 0.1 * drums, bass) - si_sdr(mixture, bass), abs=1e-6
    )
    assert summary["model_minus_mixture"]["bass"]["si_sdr"]["mean"] == pytest.approx(model["bass"]["si_sdri"]["mean"])
    assert baseline["bass"]["log_mel_mse"]["mean"] == pytest.approx(log_mel_mse(mix_mel, mels["bass"]))
    drums_si_sdr = model["drums"]["si_sdr"]
    assert (drums_si_sdr["mean"], drums_si_sdr["count"], drums_si_sdr["silent"]) == (None, 0, 1)
    assert model["drums"]["log_mel_si_sdr_zero_mean"]["silent"] == 1
    assert model["drums"]["log_mel_mse"]["count"] == 1  # how quiet silence is can be told
    assert model["all"]["log_mel_mse"]["count"] == 2 and model["sounding"]["log_mel_mse"]["count"] == 1
    assert model["sounding"]["log_mel_mse"]["mean"] == model["bass"]["log_mel_mse"]["mean"]
    json.dumps(summary, allow_nan=False)
    table = score_table(summary)
    assert f"({baseline['bass']['log_mel_mse']['mean']:.3f})" in table and "nan" not in table


# Files


def test_metrics_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "val_1" / "metrics.json"
    write_metrics(path, {"mean": 1.5, "name": "Für Elise", "none": None})
    with pytest.raises(ValueError):
        write_metrics(path, {"mean": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"mean": 1.5, "name": "Für Elise", "none": None}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
