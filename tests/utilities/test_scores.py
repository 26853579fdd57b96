"""Chunks, embeddings and the tables of a whole evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_diffusion.errors import ConfigError
from utilities.evaluation import embeddings
from utilities.evaluation.chunks import METRIC, ChunkScores
from utilities.evaluation.embeddings import Embedding, load_embedding, register_embedding
from utilities.evaluation.metrics import si_sdr, track_of
from utilities.evaluation.scores import Scores, Side, read_rows, score_table, write_rows

RATE = 1000


def noise(seconds: float, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


# MSDM's chunks


def test_chunks_by_hand() -> None:
    """11 s: chunks at 0, 2, 4, 6 s. Drums sound from 0 to 5 s, bass from 0 to 9 s: at 6 s bass is alone."""
    bass, drums = noise(11, 0), noise(11, 1)
    bass[9 * RATE :], drums[5 * RATE :] = 0, 0
    mixture, made = bass + drums, {"bass": bass + 0.3 * noise(11, 2), "drums": drums + 0.2 * bass}
    scores = ChunkScores()
    scores.add("Song_from_20", made, {"bass": bass, "drums": drums}, mixture, RATE)
    expected = {}
    for stem, target in (("bass", bass), ("drums", drums)):
        cuts = [slice(start * RATE, (start + 4) * RATE) for start in (0, 2, 4)]
        expected[stem] = [si_sdr(made[stem][c], target[c]) - si_sdr(mixture[c], target[c]) for c in cuts]
        found = dict(scores.table.values(METRIC, stem))
        assert list(found) == [f"Song_from_20+{start}" for start in (0, 2, 4)]
        assert list(found.values()) == pytest.approx(expected[stem])
    summary = scores.summary(("bass", "drums"))
    assert summary["drums"]["mean"] == pytest.approx(np.mean(expected["drums"]))
    assert summary["all"]["count"] == 6 and summary["all"]["tracks"] == 1
    about = summary["about"]
    assert (about["chunks"], about["left_out_silent"], about["left_out_one_stem"]) == (4, 0, 1)


def test_chunks_of_silence_and_of_short_items() -> None:
    scores, quiet = ChunkScores(), torch.zeros(9 * RATE)
    scores.add("Silent", {"bass": quiet}, {"bass": quiet, "drums": quiet}, quiet, RATE)
    assert scores.summary(("bass",))["about"]["left_out_silent"] == 3
    bass, drums = noise(1.5, 0), noise(1.5, 1)
    scores.add("Short", {"bass": 0.5 * bass}, {"bass": bass, "drums": drums}, bass + drums, RATE)
    ((name, value),) = scores.table.values(METRIC, "bass")
    assert track_of(name) == "Short" and value > 50
    with pytest.raises(ValueError, match="less overlap"):
        ChunkScores(2, 2)


# Embeddings


def test_log_mel_embedding_takes_any_rate_channels_and_length() -> None:
    embedding = load_embedding()
    assert embedding(noise(1, 0), 16_000).shape == (1 + 1024 // 160, 64)  # padded to one FFT
    assert embedding(torch.zeros(2, 44_100), 44_100).shape == (101, 64)
    assert float(embedding(torch.zeros(16_000), 16_000).max()) == pytest.approx(math.log(1e-5))


def test_embeddings_that_are_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="found 'vggish', expected one of clap, log_mel"):
        load_embedding("vggish")
    with pytest.raises(ConfigError, match="transformers is not installed|no such folder"):
        load_embedding(f"clap:{tmp_path}/none")
    monkeypatch.setattr(embeddings, "_FACTORIES", dict(embeddings._FACTORIES))
    given = []

    def factory(argument: str, download: bool) -> Embedding:
        given.append((argument, download))
        return Embedding("level", RATE, lambda wave: wave.abs().reshape(-1, 10))

    register_embedding("level", factory)
    assert load_embedding("level:a:b", download=True)(noise(1, 0), RATE).shape == (100, 10)
    assert given == [("a:b", True)]


# Everything together


def _sides(seed: int) -> tuple[Side, Side]:
    targets = {"bass": noise(5, seed), "drums": noise(5, seed + 1)}
    mixture = targets["bass"] + targets["drums"]
    mels = {name: torch.randn(20, 8) for name in targets}
    results = {name: wave + 0.1 * noise(5, seed + 2) for name, wave in targets.items()}
    mixed = results["bass"] + results["drums"]
    return Side(results, mixed, mels, None), Side(targets, mixture, mels, torch.randn(20, 8))


def test_separation_rows_and_summary(tmp_path: Path) -> None:
    scores = Scores(Embedding("raw", RATE, lambda wave: wave.reshape(-1, 10)))
    for number in range(3):
        result, target = _sides(10 * number)
        if number == 2:
            target.stems["drums"] = torch.zeros(5 * RATE)
        scores.add_pair(f"T{number}_from_0", result, target, RATE)
        scores.add_kind(f"T{number}_from_0", result, target, RATE)
    summary = scores.summary("separation", ("bass", "drums"))
    json.dumps(summary, allow_nan=False)
    assert summary["fad"]["embedding"] == "raw" and summary["fad"]["mixture"]["fad"] > 0
    assert summary["fad"]["stems"]["bass"]["ci95"][0] <= summary["fad"]["stems"]["bass"]["fad"]
    text = score_table(summary)
    assert all(word in text for word in ("msdm_si_sdri", "embedding raw", "sdr", "sounding")) and "nan" not in text
    write_rows(tmp_path / "metrics.csv", scores.rows())
    rows = read_rows(tmp_path / "metrics.csv")
    assert rows == scores.rows()
    assert [(row["track"], row["stem"]) for row in rows[:3]] == [("T0", "bass"), ("T0", "drums"), ("T1", "bass")]
    first, last = rows[0], rows[-1]
    assert first["si_sdri"] == pytest.approx(first["si_sdr"] - first["mixture_si_sdr"])
    assert first[METRIC] == pytest.approx(first["si_sdri"], abs=1.0)  # 4 of its 5 seconds
    assert (last["silent"], last["si_sdr"], last[METRIC]) == (1, None, None) and last["log_mel_mse"] == 0


def test_unpaired_sets_and_sub_fad() -> None:
    scores = Scores(load_embedding())
    for number in range(2):
        result, target = _sides(10 * number)
        del result.stems["bass"]
        scores.add_kind(f"made{number}", result, None, RATE)
        scores.add_kind(f"real{number}", None, target, RATE)
    summary = scores.summary("generation", ("bass", "drums"))
    assert summary["fad"]["stems"]["drums"]["items"] == summary["fad"]["stems"]["drums"]["reference_items"] == 2
    assert summary["fad"]["stems"]["bass"]["fad"] is None
    assert "sub_fad" in scores.summary("arrangement", ("bass", "drums"))["fad"]
    assert "sub_fad" in score_table(scores.summary("arrangement", ("bass", "drums")))
