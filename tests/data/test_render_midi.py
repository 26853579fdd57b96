"""The command that renders a folder of MIDI files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from data.render_midi import find_midi, read_stems, stem_of
from latent_diffusion.errors import DataError

ROOT = Path(__file__).parents[2]
STEMS = ("bass", "drums", "guitar", "piano")


def write_midi(file: Path, programs: tuple[int, ...], drums: bool, velocity: int = 90) -> None:
    """Two seconds of music: every program plays a note after the other, its own pitch."""
    midi = pretty_midi.PrettyMIDI()
    for i, program in enumerate(programs):
        instrument = pretty_midi.Instrument(program)
        instrument.notes = [pretty_midi.Note(velocity, 45 + 2 * i, 0.5 * k, 0.5 * k + 0.4) for k in range(4)]
        midi.instruments.append(instrument)
    if drums:
        kit = pretty_midi.Instrument(0, is_drum=True)
        kit.notes = [pretty_midi.Note(velocity, 36 if k % 2 == 0 else 38, 0.25 * k, 0.25 * k + 0.1) for k in range(8)]
        midi.instruments.append(kit)
    file.parent.mkdir(parents=True, exist_ok=True)
    midi.write(str(file))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data.render_midi", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_classes_of_programs() -> None:
    wanted = {0: "piano", 7: "piano", 8: None, 23: None, 24: "guitar", 31: "guitar", 32: "bass", 39: "bass", 40: None}
    assert {program: stem_of(pretty_midi.Instrument(program)) for program in wanted} == wanted
    assert stem_of(pretty_midi.Instrument(48, is_drum=True)) == "drums"


def test_the_rest_is_dropped(tmp_path: Path) -> None:
    write_midi(tmp_path / "a.mid", (0, 4, 33, 40, 73), drums=True)
    stems, end, dropped = read_stems(tmp_path / "a.mid")
    assert {stem: len(instruments) for stem, instruments in stems.items()} == {
        "bass": 1,
        "drums": 1,
        "guitar": 0,
        "piano": 2,
    }
    assert end == pytest.approx(1.9, abs=0.01)
    assert dropped == 2


def test_a_file_without_the_four_classes_says_so(tmp_path: Path) -> None:
    write_midi(tmp_path / "strings.mid", (48, 73), drums=False)
    with pytest.raises(DataError, match=r"strings\.mid: found no notes .* \(2 other instruments\)"):
        read_stems(tmp_path / "strings.mid")


def test_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    write_midi(tmp_path / "x" / "B.MID", (0,), drums=False)
    write_midi(tmp_path / "a.midi", (0,), drums=False)
    (tmp_path / "note.txt").write_text("no music")
    assert [file.name for file in find_midi(tmp_path)] == ["a.midi", "B.MID"]


def test_command(tmp_path: Path) -> None:
    midi, out = tmp_path / "midi", tmp_path / "out"
    write_midi(midi / "a.mid", (0, 25, 33), drums=True)
    (midi / "b.mid").write_bytes(b"MThd\x00\x00\x00\x06\x00\x01\x00\x02 this is no music")
    write_midi(midi / "c" / "c.mid", (0, 33), drums=False, velocity=127)
    write_midi(midi / "d.mid", (60,), drums=False)
    arguments = ("--midi", str(midi), "--out", str(out), "--split", "test", "--workers", "2")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    listed = [text for text in done.stderr.splitlines() if text.startswith("left out: ")]
    assert len(listed) == 2
    assert sum("b.mid: cannot be read as MIDI" in text for text in listed) == 1
    assert sum("d.mid: found no notes" in text for text in listed) == 1
    assert "2 left out" in done.stdout

    assert sorted(folder.name for folder in (out / "test").iterdir() if folder.is_dir()) == ["Track00001", "Track00003"]
    for name, silent in (("Track00001", set()), ("Track00003", {"drums", "guitar"})):
        sounds = {}
        for stem in STEMS:
            sounds[stem], rate = soundfile.read(out / "test" / name / f"{stem}.wav")
            assert rate == 22050
        assert len({len(sound) for sound in sounds.values()}) == 1
        assert {stem for stem, sound in sounds.items() if not sound.any()} == silent
        peak = np.abs(sum(sounds.values())).max()
        assert 0.8 < peak <= 0.9
    statistics = json.loads((out / "test" / "statistics.json").read_text())
    assert [failure["track"] for failure in statistics["left_out"]] == ["Track00002", "Track00004"]
    assert statistics["summary"]["stems"]["guitar"]["tracks"] == 1

    again = run(*arguments)
    assert again.returncode == 0
    assert "2 tracks exist already" in again.stderr


def test_nothing_usable_is_one_line_and_status_2(tmp_path: Path) -> None:
    midi = tmp_path / "midi"
    midi.mkdir()
    empty = run("--midi", str(midi), "--out", str(tmp_path / "out"))
    (midi / "b.mid").write_bytes(b"not music")
    corrupt = run("--midi", str(midi), "--out", str(tmp_path / "out"))
    missing = run("--midi", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    for done, text in ((empty, "found no .mid"), (corrupt, "none of 1 MIDI files"), (missing, "no such folder")):
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and text in errors[0]
        assert "Traceback" not in done.stderr
