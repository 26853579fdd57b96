"""SoundFonts made of recorded notes, and SoundFonts by stem."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from data import render_midi, samples_to_soundfont, synthetic
from data.rendering import SAMPLE_RATE, render_stems, soundfont
from data.samples_to_soundfont import Note, key_ranges, pitch_of, trim, write_soundfont
from latent_diffusion.errors import DataError

RATE = 44100


def tone(pitch: int, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    hertz = 440.0 * 2.0 ** ((pitch - 69) / 12)
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write_samples(folder: Path, names: dict[str, int]) -> Path:
    folder.mkdir(parents=True)
    for name, pitch in names.items():
        soundfile.write(folder / name, np.concatenate([np.zeros(RATE // 10), tone(pitch)]), RATE)
    (folder / "package.json").write_text("{}")
    return folder


def play(font: Path, stem: str, program: int, pitch: int) -> np.ndarray:
    part = pretty_midi.Instrument(program, is_drum=stem == "drums")
    part.notes = [pretty_midi.Note(100, pitch, 0.0, 0.5)]
    return render_stems({stem: [part]}, 0.5, 1.0, {stem: str(font)})[stem]


def strongest_hertz(sound: np.ndarray) -> float:
    stretch = sound[2000:10000] * np.hanning(8000)
    return float(np.abs(np.fft.rfft(stretch, 1 << 16)).argmax() * SAMPLE_RATE / (1 << 16))


def test_notes_of_names() -> None:
    wanted = {
        "A4": 69,
        "C4v10": 60,
        "As1": 34,
        "F#3v10": 54,
        "Bb2": 46,
        "C-1": 0,
        "index": None,
        "H2": None,
        "A12": None,
    }
    assert {name: pitch_of(name) for name in wanted} == wanted
    assert key_ranges([40, 43, 50]) == [(0, 41), (42, 46), (47, 127)]
    assert key_ranges([60]) == [(0, 127)]


def test_notes_begin_where_they_sound_and_end_softly() -> None:
    sound = trim(np.concatenate([np.zeros(RATE, np.float32), tone(69, 20.0)]), RATE)
    assert len(sound) == 12 * RATE
    assert np.abs(sound[: RATE // 100]).max() > 0.4 and abs(sound[-1]) < 1e-6
    assert len(trim(np.zeros(100, np.float32), RATE)) == 0


def test_soundfont_plays_every_key_of_every_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write_samples(tmp_path / "bass", {"E2.wav": 40, "Cs3.flac": 49})
    font = tmp_path / "fonts" / "bass.sf2"
    arguments = ["--samples", str(samples), "--stem", "bass", "--out", str(font)]
    assert samples_to_soundfont.main(arguments) == 0
    assert "2 notes from 40 to 49" in capsys.readouterr().out
    for program, pitch in ((32, 40), (35, 43), (39, 46), (33, 61)):
        sound = play(font, "bass", program, pitch)
        assert strongest_hertz(sound) == pytest.approx(440.0 * 2 ** ((pitch - 69) / 12), rel=0.005)
        assert np.abs(sound[:441]).max() > 0.1 * np.abs(sound).max(), "the silence before the note is gone"
        assert np.abs(sound[-2205:]).max() < 1e-2 * np.abs(sound).max(), "the note ends after its key is released"


def test_samples_that_are_no_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = write_samples(tmp_path / "twice", {"As2.wav": 46, "Bb2.wav": 46})
    none = write_samples(tmp_path / "none", {"kick.wav": 36})
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "A4.wav", np.zeros(100), RATE)
    for folder, text in ((twice, "is there already"), (none, "named by its note"), (silent, "is silent")):
        arguments = ["--samples", str(folder), "--stem", "piano", "--out", str(tmp_path / "x.sf2")]
        assert samples_to_soundfont.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and text in error
    assert not (tmp_path / "x.sf2").exists()


def test_other_kick_stands_in_for_one_that_a_kit_lacks(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.sf2", tmp_path / "part.sf2"
    kick = Note(36, tone(45), RATE)
    content = write_soundfont("kit", [kick], [0])
    whole.write_bytes(content)
    keys = bytes([0, 127])
    assert content.count(b"\x2b\x00" + keys) == 1
    part.write_bytes(content.replace(b"\x2b\x00" + keys, b"\x2b\x00" + bytes([36, 127])))
    for font in (whole, part):
        assert play(font, "drums", 0, 36).any() and play(font, "drums", 0, 35).any()
    assert (play(part, "drums", 0, 35) == play(part, "drums", 0, 36)).all()
    assert not (play(whole, "drums", 0, 35) == play(whole, "drums", 0, 36)).all()
    assert not play(part, "drums", 0, 34).any()


def test_soundfonts_by_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    midi = pretty_midi.PrettyMIDI()
    for program in (0, 25, 33):
        part = pretty_midi.Instrument(program)
        part.notes = [pretty_midi.Note(90, 57, 0.0, 1.0)]
        midi.instruments.append(part)
    (tmp_path / "midi").mkdir()
    midi.write(str(tmp_path / "midi" / "a.mid"))
    general, own = tmp_path / "general.sf2", tmp_path / "own.sf2"
    general.write_bytes(soundfont())
    own.write_bytes(write_soundfont("own", [Note(57, tone(57 + 12), RATE)], range(24, 32)))  # an octave too high
    options = ["--midi", str(tmp_path / "midi"), "--workers", "1", "--quiet", "--out"]
    assert render_midi.main([*options, str(tmp_path / "a"), "--soundfont", str(general), f"guitar={own}"]) == 0
    metadata = json.loads((tmp_path / "a" / "train" / "Track00001" / "song.json").read_text())
    assert metadata["soundfonts"] == {"bass": "general.sf2", "guitar": "own.sf2", "piano": "general.sf2"}
    assert metadata["recipe"]["soundfonts"] == [str(general)]
    assert metadata["recipe"]["stem_soundfonts"] == {"guitar": [str(own)]}
    sound, _ = soundfile.read(tmp_path / "a" / "train" / "Track00001" / "guitar.wav")
    assert strongest_hertz(sound) == pytest.approx(440.0, rel=0.005)
    assert render_midi.main([*options, str(tmp_path / "b"), "--soundfont", f"organ={own}"]) == 2
    assert "organ=" in capsys.readouterr().err

    composed = ["--tracks", "1", "--seconds", "10", "--workers", "1", "--quiet", "--out"]
    assert synthetic.main([*composed, str(tmp_path / "c"), "--soundfont", f"guitar={own}"]) == 0
    assert synthetic.main([*composed, str(tmp_path / "d")]) == 0
    found = [json.loads((tmp_path / k / "train" / "Track00001" / "song.json").read_text()) for k in "cd"]
    assert found[0]["soundfonts"] == {"guitar": "own.sf2"} and "soundfonts" not in found[1]
    assert found[1]["recipe"].keys() == {"composer", "seed", "seconds"}
    assert found[0]["sections"] == found[1]["sections"]
    with pytest.raises(DataError, match="was made with"):
        synthetic.build_split(
            tmp_path / "d" / "train",
            synthetic.plan_jobs(tmp_path / "d", "train", 1, 0, (10.0, 10.0), {"soundfonts": ["x.sf2"]}),
            synthetic.make_track,
            1,
        )
