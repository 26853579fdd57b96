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
from data.samples_to_soundfont import Note, Zone, key_ranges, pitch_of, trim, write_soundfont
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


def play(font: Path, stem: str, program: int, pitch: int, velocity: int = 100) -> np.ndarray:
    part = pretty_midi.Instrument(program, is_drum=stem == "drums")
    part.notes = [pretty_midi.Note(velocity, pitch, 0.0, 0.5)]
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


def test_kit_is_known_by_its_names(tmp_path: Path) -> None:
    files = {
        "bd_808": 30,
        "a_snare": 45,
        "snare_soft": 50,
        "snare_hard": 62,
        "hat-closed": 90,
        "cymbal_open": 95,
        "tom_lo_hard": 40,
    }
    samples = write_samples(tmp_path / "kit", {f"{name}.wav": pitch for name, pitch in files.items()})
    write_samples(tmp_path / "kit" / "more", {"crash.wav": 99})  # not searched
    soundfile.write(samples / "drum_cymbal_soft.wav", tone(97, 3.0), RATE)
    font = tmp_path / "kit.sf2"
    assert samples_to_soundfont.main(["--samples", str(samples), "--stem", "drums", "--out", str(font)]) == 0
    wanted = {35: 30, 36: 30, 38: 62, 40: 62, 41: 40, 43: 40, 45: 40, 42: 90, 46: 95, 49: 97, 51: 97}
    for key, pitch in wanted.items():
        assert strongest_hertz(play(font, "drums", 0, key)) == pytest.approx(440.0 * 2 ** ((pitch - 69) / 12), rel=0.01)
    assert strongest_hertz(play(font, "drums", 0, 38, velocity=60)) == pytest.approx(440.0 * 2 ** (-19 / 12), rel=0.01)
    assert not play(font, "drums", 0, 56).any(), "there is no cowbell"
    crash = play(font, "drums", 25, 49)
    assert np.abs(crash[SAMPLE_RATE : SAMPLE_RATE + 2000]).max() > 0.1 * np.abs(crash).max(), "it rings on"


def test_hats_choke_each_other(tmp_path: Path) -> None:
    font = tmp_path / "kit.sf2"
    hats = [Note(42, tone(90, 0.05), RATE), Note(46, tone(70, 3.0), RATE)]
    for choke, rings in ((1, False), (0, True)):
        zones = [Zone(0, (42, 42), choke=choke), Zone(1, (46, 46), choke=choke)]
        font = tmp_path / f"{choke}.sf2"
        font.write_bytes(write_soundfont("kit", hats, zones, [(128, 0)]))
        kit = pretty_midi.Instrument(0, is_drum=True)
        kit.notes = [pretty_midi.Note(100, 46, 0.0, 0.2), pretty_midi.Note(100, 42, 0.5, 0.6)]
        sound = render_stems({"drums": [kit]}, 0.6, 1.5, {"drums": str(font)})["drums"]
        early, late = np.abs(sound[: SAMPLE_RATE // 2]).max(), np.abs(sound[SAMPLE_RATE : SAMPLE_RATE * 3 // 2]).max()
        assert (late > 0.5 * early) == rings


def test_other_kick_stands_in_for_one_that_a_kit_lacks(tmp_path: Path) -> None:
    for name, lowest in (("whole", 0), ("part", 36)):
        content = write_soundfont("kit", [Note(36, tone(45), RATE)], [Zone(0, (lowest, 127))], [(0, 0)])
        (tmp_path / f"{name}.sf2").write_bytes(content)
    whole, part = tmp_path / "whole.sf2", tmp_path / "part.sf2"
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
    too_high = [Note(57, tone(57 + 12), RATE)]  # by an octave
    own.write_bytes(write_soundfont("own", too_high, [Zone(0, (0, 127))], [(0, program) for program in range(24, 32)]))
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
