"""Guitars through a distorting amplifier and a cabinet."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pretty_midi
import pytest
import soundfile

from data import render_midi
from data.amplifier import DRIVE_DB, Amplifier, amplify, draw_amplifier, find_responses
from data.rendering import SAMPLE_RATE, active_rms_db

SECOND = np.arange(SAMPLE_RATE) / SAMPLE_RATE


def write_response(file: Path, samples: np.ndarray, rate: int = 44100) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate, subtype="FLOAT")
    return file


def shares(sound: np.ndarray, hertz: float) -> list[float]:
    """Magnitudes at 1, 2 ... 8 times a frequency, as shares of the first."""
    spectrum = np.abs(np.fft.rfft(sound[:SAMPLE_RATE] * np.hanning(SAMPLE_RATE)))
    found = [float(spectrum[round(k * hertz)]) for k in range(1, 9)]
    return [value / found[0] for value in found]


def test_drive_adds_harmonics_and_keeps_the_level(tmp_path: Path) -> None:
    click = str(write_response(tmp_path / "click.wav", np.eye(1, 100)[0]))
    tone = (0.1 * np.sin(2 * np.pi * 220 * SECOND)).astype(np.float32)
    soft, hard = (amplify(tone, Amplifier(click, drive)) for drive in DRIVE_DB)
    assert len(soft) == len(tone) and soft.dtype == np.float32
    for sound in (soft, hard):
        assert active_rms_db(sound) == pytest.approx(active_rms_db(tone), abs=0.1)
    assert shares(tone, 220)[2] < 1e-4 < 0.05 < shares(soft, 220)[2] < shares(hard, 220)[2]
    # Nothing between the harmonics: what the distortion makes above half the rate is not mirrored.
    high = (0.1 * np.sin(2 * np.pi * 3001 * SECOND)).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(amplify(high, Amplifier(click, 20.0)) * np.hanning(SAMPLE_RATE)))
    mirrored = spectrum[SAMPLE_RATE - 5 * 3001 - 3 : SAMPLE_RATE - 5 * 3001 + 4].max()
    assert mirrored < 1e-3 * spectrum.max()
    assert not amplify(np.zeros(1000, np.float32), Amplifier(click, 20.0)).any()


def test_cabinet_shapes_the_sound(tmp_path: Path) -> None:
    dull = str(write_response(tmp_path / "dull.wav", np.ones(64) / 64))  # a zero at 44100 / 64 Hz
    tone = sum(np.sin(2 * np.pi * hertz * SECOND) for hertz in (250, 689)).astype(np.float32) * 0.05
    played = amplify(tone, Amplifier(dull, -40.0))  # so little drive that it does not distort
    before, after = (np.abs(np.fft.rfft(sound * np.hanning(SAMPLE_RATE))) for sound in (tone, played))
    assert before[689] == pytest.approx(before[250], rel=0.01) and after[689] < 0.02 * after[250]


def test_responses_are_drawn(tmp_path: Path) -> None:
    for name in ("a.wav", "b/c.wav"):
        write_response(tmp_path / name, np.eye(1, 100)[0])
    write_response(tmp_path / "hall.wav", np.zeros(2 * 44100))
    files = find_responses(str(tmp_path))
    assert [Path(file).name for file in files] == ["a.wav", "c.wav"]
    drawn = [draw_amplifier(Random(seed), 0.5, str(tmp_path)) for seed in range(200)]
    used = [amplifier for amplifier in drawn if amplifier]
    assert 70 < len(used) < 130 and {amplifier.response for amplifier in used} == set(files)
    assert all(DRIVE_DB[0] <= amplifier.drive_db <= DRIVE_DB[1] for amplifier in used)
    assert all(draw_amplifier(Random(seed), 1.0, str(tmp_path)) for seed in range(20))


def test_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_response(tmp_path / "ir" / "cabinet.wav", np.eye(1, 100)[0])
    midi = pretty_midi.PrettyMIDI()
    for program in (27, 33):
        part = pretty_midi.Instrument(program)
        part.notes = [pretty_midi.Note(90, 50, 0.0, 1.0)]
        midi.instruments.append(part)
    (tmp_path / "midi").mkdir()
    midi.write(str(tmp_path / "midi" / "a.mid"))
    midi.instruments = midi.instruments[1:]
    midi.write(str(tmp_path / "midi" / "without.mid"))
    options = ["--midi", str(tmp_path / "midi"), "--workers", "1", "--quiet", "--out"]
    amplified = ["--amplify", "1", "--responses", str(tmp_path / "ir")]
    assert render_midi.main([*options, str(tmp_path / "plain")]) == 0
    assert render_midi.main([*options, str(tmp_path / "loud"), *amplified]) == 0
    plain, loud = (
        {
            stem: soundfile.read(tmp_path / name / "train" / "Track00001" / f"{stem}.wav")[0]
            for stem in ("bass", "guitar")
        }
        for name in ("plain", "loud")
    )
    metadata, without = (
        json.loads((tmp_path / "loud" / "train" / track / "song.json").read_text())
        for track in ("Track00001", "Track00002")
    )
    assert metadata["amplifier"]["response"] == "cabinet.wav" and "amplifier" not in without
    ratio = {stem: np.dot(plain[stem], loud[stem]) / np.dot(plain[stem], plain[stem]) for stem in plain}
    difference = {stem: np.std(loud[stem] - ratio[stem] * plain[stem]) / np.std(loud[stem]) for stem in plain}
    assert difference["bass"] < 0.01 and difference["guitar"] > 0.2
    capsys.readouterr()
    assert render_midi.main([*options, str(tmp_path / "x"), "--amplify", "2"]) == 2
    assert "a share from 0 to 1" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert render_midi.main([*options, str(tmp_path / "y"), *amplified[:3], str(tmp_path / "none")]) == 2
    assert "guitarix-common" in capsys.readouterr().err
