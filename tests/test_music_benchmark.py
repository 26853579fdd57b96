"""`benchmarks.music` runs as a command, and its comparisons say what they should where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import music
from benchmarks.measures import measured
from latent_diffusion.errors import DataError
from latent_diffusion.inference import MultiTrackPipeline
from tests import tiny


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(music, "find_checkpoint", lambda given, key: Path(given))
    monkeypatch.setattr(MultiTrackPipeline, "from_checkpoint", lambda path, device: tiny.pipeline())
    return music.main([*arguments, "--seconds", "1.28", "--steps", "2", "--items", "5"])


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    songs = tiny.write_songs(tmp_path / "songs", 5, 3.0)
    found: list[dict[str, Any]] = []
    for name in ("a.json", "b.json"):
        assert run(monkeypatch, "--data", str(songs), "--json", str(tmp_path / name)) == 0
        found.append(json.loads((tmp_path / name).read_text()))
    out = capsys.readouterr().out
    assert "Frechet distance" in out and "drums made" in out and "bass made" in out and "win made" in out
    for part in music.PARTS:
        assert found[0][part] == found[1][part]  # the same seed gives the same figures
    distances = found[0]["generation"]
    assert set(distances) == {*tiny.STEMS, music.JOINT}
    for stem in tiny.STEMS:  # one stem of a shuffle is that of real songs
        assert distances[stem]["shuffled"] == pytest.approx(distances[stem]["real"], rel=1e-6)
        assert distances[stem]["real"] < distances[stem]["noise"]
    assert list(found[0]["measures"]) == measured(tiny.STEMS)
    for row in found[0]["measures"].values():
        assert list(row) == ["real", "through", "generated", "noise"]
    tonal = found[0]["measures"]["bass: tonal"]["real"]  # the songs are tones and a little noise
    assert tonal["count"] == 5 and 0.8 < tonal["ci95"][0] <= tonal["mean"] <= tonal["ci95"][1] <= 1
    win = found[0]["rhythm"]["onset agreement"]["win made"]
    assert 0 <= win["ci95"][0] <= win["mean"] <= win["ci95"][1] <= 1


def test_wrong_arguments_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = tiny.write_songs(tmp_path / "songs", 2, 3.0)
    for wrong in (["--data", str(tmp_path / "nowhere")], ["--data", str(songs)], ["--data", str(songs), "--items=1"]):
        assert music.main(["--model", "x", *wrong]) == 2 if "--items=1" in wrong else run(monkeypatch, *wrong) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")


def test_windows_are_spread_over_the_songs(tmp_path: Path) -> None:
    songs = tiny.write_songs(tmp_path, 4, 3.0)
    mel = music.window(tiny.settings(), 0.64)
    assert mel.frames == 64
    items = music.read_items(songs, tiny.STEMS, mel, 6, seed=0)
    assert len(items) == 6 and sorted({i.track for i in items[:4]}) == [f"Track{n:05d}" for n in range(4)]
    assert items[0].waveforms.shape == (4, mel.window_samples) and items[0].log_mels.shape == (4, 64, 16)
    assert music.read_items(songs, tiny.STEMS, mel, 6, seed=0)[3].track == items[3].track
    assert len(music.read_items(songs, tiny.STEMS, mel, 999, seed=0)) == 16  # all of them, the rests left out
    silent = [music.Item(i.track, i.waveforms * torch.tensor([1.0, 0, 1, 1])[:, None], i.log_mels) for i in items]
    with pytest.raises(DataError, match="drums: found fewer"):
        music.playing(silent, tiny.STEMS, "drums", (), 6)
    assert len(music.playing(silent, tiny.STEMS, "bass", ("drums",), 4)) == 4


def test_comparison_counts_other_songs_only() -> None:
    tracks = ["a", "a", "b", "c"]
    given = [0.0, 0.1, 1.0, 2.0]

    def score(one: float, other: float) -> float:
        return -abs(one - other)

    perfect = music.compare(score, given, given, given, tracks)
    assert perfect["made"] == perfect["true"] == 0 and perfect["win made"]["mean"] == perfect["win own"]["mean"] == 1
    worst = music.compare(score, [9.0] * 4, given, given, tracks)
    assert worst["win made"]["mean"] == 0 and worst["win true"]["mean"] == 1
    assert worst["win own"]["mean"] == 0.5  # the same for every song: what is made has nothing to do with the song
    # items of the first song are not held against each other: 1.0 and 2.0 are the others of 0.0
    assert worst["another song's"] == pytest.approx(np.mean([-1.5, -1.4, -np.mean([1, 0.9, 1]), -np.mean([2, 1.9, 1])]))


# ---- measures of waveforms


def test_songs_that_anything_made_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    songs, made = (tiny.write_songs(tmp_path / name, 4, 2.0, seed) for name, seed in (("songs", 0), ("made", 1)))
    monkeypatch.setattr(music, "find_checkpoint", lambda *_: pytest.fail("no model is asked for"))

    def judged(data: Path, *options: str) -> dict[str, Any]:
        common = ["--made", str(made), "--data", str(data), "--seconds", "1.28", "--items", "4"]
        assert music.main([*common, *options, "--json", str(tmp_path / "found.json")]) == 0
        return json.loads((tmp_path / "found.json").read_text())

    found = judged(songs)
    assert list(found["measures"]) == measured(tiny.STEMS) and set(found["measures"]["key"]) == {"real", "made"}
    assert set(found["generation"]["bass"]) == {"made", "shuffled", "real"}
    assert found["generation"]["bass"]["made"] > 0
    same = judged(made, "--stems", "bass", "piano", "--parts", "measures")["measures"]
    assert list(same) == ["bass: tonal", "piano: tonal", "key"]
    assert all(row["real"] == row["made"] for row in same.values())
    assert "drums" not in capsys.readouterr().out.split("Mean, 95 % interval")[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--made", "x", "--steps", "9"], "--steps: has no effect with --made"),
        (["--made", "x", "--model", "y"], "--model: has no effect with --made"),
        (["--stems", "bass"], "--stems: has no effect without --made"),
        (["--made", "x", "--parts", "rhythm"], "--parts rhythm: needs a model"),
        (["--made", "nowhere"], "nowhere"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = tiny.write_songs(tmp_path / "songs", 4, 3.0)
    assert music.main(["--data", str(songs), "--seconds", "1", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_window_of_a_network_that_is_no_unet() -> None:
    """Whole latent frames are enough for a network that does not halve them."""
    own = tiny.settings()
    settings = SimpleNamespace(mel=own.mel, autoencoder=own.autoencoder, unet=SimpleNamespace(width=8))
    assert music.window(settings, 0.62).frames == 62 and music.window(own, 0.62).frames == 64
