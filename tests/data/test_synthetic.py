"""The composer (without sound) and the command that makes a dataset of composed songs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from data.building import Job, existing
from data.composer import STEMS, Song, compose, perform
from data.composer.harmony import MODES, chord_at, chord_from_roman, lay_out, voice
from data.composer.styles import PROGRESSIONS, STYLES
from data.rendering import balance, limit_peak, render_stems, to_pcm
from data.synthetic import plan_jobs
from latent_diffusion.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    return [compose(f"test/{i}", 40.0 + i) for i in range(40)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data.synthetic", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.wav"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- harmony


@pytest.mark.parametrize(
    ("numeral", "tonic", "classes", "bass"),
    [
        ("I", 0, {0, 4, 7}, 0),
        ("bVII", 2, {0, 4, 7}, 0),
        ("ii7", 0, {2, 5, 9, 0}, 2),
        ("V/7", 7, {2, 6, 9}, 6),
        ("#IVdim7", 0, {6, 9, 0, 3}, 6),
        ("iim7b5", 9, {11, 2, 5, 9}, 11),
        ("V7b9", 0, {7, 11, 2, 5, 8}, 7),
    ],
)
def test_roman_numerals(numeral: str, tonic: int, classes: set[int], bass: int) -> None:
    chord = chord_from_roman(numeral, tonic)
    assert set(chord.pitch_classes) == classes
    assert chord.bass == bass


def test_numerals_that_cannot_be_read_are_refused() -> None:
    for numeral in ("H7", "Ifoo", "", "I/9"):
        with pytest.raises(ValueError, match="not a"):
            chord_from_roman(numeral, 0)


def test_every_progression_can_be_laid_out() -> None:
    for progressions in PROGRESSIONS.values():
        for progression in progressions:
            for amount in ("triads", "sevenths", "colours"):
                chords = lay_out(progression, 5, 8, 4.0, 1.0, amount, None)
                assert chords[0].start == 0.0
                assert chords[-1].end == 32.0


def test_voices_move_little() -> None:
    chords = lay_out("I vi ii7 V7 iii7 VI7 ii7 V7", 3, 8, 4.0, 1.0, "triads", None)
    previous = voice(chords[0], None, 55, 76, 4)
    for chord in chords[1:]:
        pitches = voice(chord, previous, 55, 76, 4)
        assert {p % 12 for p in pitches} <= set(chord.pitch_classes)
        assert all(min(abs(p - q) for q in previous) <= 4 for p in pitches)
        previous = pitches


# --- songs


def test_composition_follows_from_the_seed() -> None:
    assert compose("a", 50.0).notes == compose("a", 50.0).notes
    assert compose("a", 50.0).notes != compose("b", 50.0).notes
    one, two = perform(compose("a", 50.0)), perform(compose("a", 50.0))
    assert [[n.start for n in i.notes] for i in one.instruments] == [
        [n.start for n in i.notes] for i in two.instruments
    ]


def test_songs_differ(songs: list[Song]) -> None:
    assert len({s.tempo for s in songs}) >= 20
    assert len({s.key for s in songs}) >= 15
    assert len({s.style for s in songs}) >= 10
    assert len({s.metre.name for s in songs}) == 3
    assert len({tuple(x.label for x in s.sections) for s in songs}) >= 8
    assert {s.swing == 0.5 for s in songs} == {True, False}
    for stem, least in {"bass": 5, "drums": 5, "guitar": 6, "piano": 6}.items():
        assert len({s.programs[stem] for s in songs}) >= least, stem
    assert all(60 <= s.tempo <= 180 for s in songs)
    assert all(x.programs["piano"] in range(8) for x in songs)
    assert all(x.programs["guitar"] in range(24, 32) for x in songs)
    assert all(x.programs["bass"] in range(32, 40) for x in songs)


def test_lengths_are_near_what_was_asked_for(songs: list[Song]) -> None:
    for i, song in enumerate(songs):
        assert abs(song.seconds(song.bars * song.metre.beats) - (40.0 + i)) < 15.0


def test_every_stem_plays_and_many_rest(songs: list[Song]) -> None:
    rests = dict.fromkeys(STEMS, 0)
    for song in songs:
        for stem in STEMS:
            playing = {int(note.start // song.metre.beats) for note in song.notes[stem]}
            assert len(playing) >= 0.25 * song.bars, (song.seed, stem)
            rests[stem] += len(playing) <= 0.9 * song.bars
    assert all(count >= 5 for count in rests.values()), rests


def test_sections_that_return_bring_the_same_bass(songs: list[Song]) -> None:
    compared = 0
    for song in songs:
        choruses = [s for s in song.sections if s.label == "chorus" and not s.final and "bass" in s.entries]
        for one, two in zip(choruses, choruses[1:], strict=False):
            if (one.bars, one.entries["bass"], one.transposition) != (two.bars, two.entries["bass"], two.transposition):
                continue
            lines = []
            for section in (one, two):
                first = section.first_bar * song.metre.beats
                end = first + section.bars * song.metre.beats
                lines.append([(n.start - first, n.pitch) for n in song.notes["bass"] if first <= n.start < end])
            compared += 1
            assert lines[0] == lines[1]
    assert compared >= 5


def test_notes_belong_to_the_harmony(songs: list[Song]) -> None:
    share: dict[str, list[bool]] = {"bass": [], "guitar": [], "piano": []}
    roots = []
    for song in songs:
        for section in song.sections:
            first = section.first_bar * song.metre.beats
            scale = {(song.tonic + section.transposition + step) % 12 for step in MODES[song.mode]}
            for stem, hits in share.items():
                for note in song.notes[stem]:
                    at = note.start - first
                    if 0 <= at < section.bars * song.metre.beats:
                        chord = chord_at(section.chords, at)
                        hits.append(note.pitch % 12 in scale | set(chord.pitch_classes))
                        if stem == "bass" and at == chord.start:
                            roots.append(note.pitch % 12 in chord.pitch_classes)
    for stem, hits in share.items():
        assert np.mean(hits) > 0.93, stem
    assert np.mean(roots) > 0.9


def test_registers(songs: list[Song]) -> None:
    for song in songs:
        assert all(28 <= n.pitch <= 55 for n in song.notes["bass"])
        assert all(38 <= n.pitch <= 88 for n in song.notes["guitar"])
        assert all(24 <= n.pitch <= 96 for n in song.notes["piano"])
        means = {stem: np.mean([n.pitch for n in song.notes[stem]]) for stem in ("bass", "guitar", "piano")}
        assert means["bass"] + 5 < min(means["guitar"], means["piano"])


def test_drums_lie_on_the_grid_within_humanisation(songs: list[Song]) -> None:
    for song in songs[:12]:
        played = sorted(n.start for n in perform(song).instruments[STEMS.index("drums")].notes)
        assert all(abs(n.start * 4 - round(n.start * 4)) < 1e-6 for n in song.notes["drums"])
        grid = np.array([song.seconds(i / 4) for i in range(round(song.bars * song.metre.beats * 4) + 1)])
        away = np.abs(np.array(played)[:, None] - grid[None]).min(axis=1)
        assert away.max() < 0.02
        assert away.std() > 0.0005


def test_every_style_writes_every_manner_it_names() -> None:
    reached: dict[str, set[str]] = {stem: set() for stem in ("bass", "guitar", "piano")}
    for i in range(250):
        for section in compose(f"manners/{i}", 45.0).sections:
            for stem, manners in reached.items():
                if stem in section.manners:
                    manners.add(section.manners[stem])
    for stem, manners in reached.items():
        assert manners >= {manner for style in STYLES.values() for manner in getattr(style, stem)}, stem


# --- sound


def test_loud_notes_are_rendered_again_until_nothing_clips() -> None:
    loud = pretty_midi.Instrument(38)
    loud.notes = [pretty_midi.Note(127, 28 + i, 0.0, 0.5) for i in range(60)]
    soft = pretty_midi.Instrument(0)
    soft.notes = [pretty_midi.Note(60, 60, 0.0, 0.5)]
    together = render_stems({"bass": [loud], "piano": [soft], "drums": []}, 0.5)
    alone = render_stems({"piano": [soft]}, 0.5)
    assert np.abs(together["bass"]).max() < 1.0
    # All stems got quieter by the same amount, so the balance is that of the notes.
    assert 0.0 < np.abs(together["piano"]).max() < 0.8 * np.abs(alone["piano"]).max()
    assert not together["drums"].any()
    assert len({len(sound) for sound in together.values()}) == 1


def test_one_gain_for_the_whole_song() -> None:
    rng = np.random.default_rng(0)
    stems = {stem: rng.normal(size=22050).astype(np.float32) * (i + 1) for i, stem in enumerate(STEMS)}
    limited = limit_peak(stems)
    gains = [limited[stem] / stems[stem] for stem in STEMS]
    assert max(gain.max() for gain in gains) == pytest.approx(min(gain.min() for gain in gains), rel=1e-4)
    assert np.abs(sum(to_pcm(s).astype(int) for s in limited.values())).max() <= 0.9 * 32768
    levelled = balance({"bass": stems["bass"], "drums": np.zeros(22050, np.float32)}, {"bass": -20.0, "drums": -20.0})
    assert 10 * np.log10(np.mean(levelled["bass"] ** 2)) == pytest.approx(-20.0, abs=0.1)
    assert not levelled["drums"].any()


# --- the command


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("songs")
    done = run(
        "--out", str(out), "--tracks", "2", "--valid-tracks", "1", "--seed", "5", "--seconds", "12", "--workers", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "2 tracks" in done.stdout
    return out


def test_layout(dataset: Path) -> None:
    found = sorted(str(f.relative_to(dataset)) for f in dataset.rglob("*.wav"))
    tracks = ("train/Track00001", "train/Track00002", "valid/Track00001")
    assert found == sorted(f"{track}/{stem}.wav" for track in tracks for stem in STEMS)
    for track in tracks:
        sounds = []
        for stem in STEMS:
            info = soundfile.info(dataset / track / f"{stem}.wav")
            assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
            sounds.append(soundfile.read(dataset / track / f"{stem}.wav", dtype="int16")[0].astype(int))
        assert len({len(sound) for sound in sounds}) == 1
        assert all(0 < np.abs(sound).max() < 32767 for sound in sounds)
        assert 0.3 * 32768 < np.abs(sum(sounds)).max() <= 0.9 * 32768


def test_statistics(dataset: Path) -> None:
    statistics = json.loads((dataset / "train" / "statistics.json").read_text())
    assert list(statistics["tracks"]) == ["Track00001", "Track00002"]
    assert statistics["left_out"] == []
    song = statistics["tracks"]["Track00001"]
    assert song["clipped_samples"] == 0
    assert song["stems"]["bass"]["centroid_hz"] < song["stems"]["drums"]["centroid_hz"]
    sound, _ = soundfile.read(dataset / "train" / "Track00001" / "bass.wav")
    assert song["stems"]["bass"]["rms_db"] == pytest.approx(10 * np.log10(np.mean(sound**2)), abs=0.1)


def test_same_seed_same_bytes_and_an_interrupted_run_goes_on(dataset: Path, tmp_path: Path) -> None:
    arguments = ("--tracks", "2", "--seed", "5", "--seconds", "12", "--workers", "2", "--out", str(tmp_path))
    partial = tmp_path / "train" / ".Track00002.partial"
    partial.mkdir(parents=True)  # what a killed run leaves behind
    (partial / "bass.wav").write_bytes(b"RIFF")
    assert run(*arguments).returncode == 0
    expected = {name: digest for name, digest in digests(dataset / "train").items()}
    assert digests(tmp_path / "train") == expected
    assert not partial.exists()
    assert digests(dataset / "valid")["Track00001/bass.wav"] != expected["Track00001/bass.wav"]
    before = (tmp_path / "train" / "Track00001" / "bass.wav").stat().st_mtime_ns
    again = run(*arguments)
    assert again.returncode == 0
    assert "2 tracks exist already" in again.stderr
    assert (tmp_path / "train" / "Track00001" / "bass.wav").stat().st_mtime_ns == before


def test_another_seed_does_not_mix_with_what_is_there(dataset: Path) -> None:
    job = plan_jobs(dataset, "train", 1, 6, (12.0, 12.0))[0]
    with pytest.raises(DataError, match="was made with seed '5/train/1' instead of '6/train/1'"):
        existing(job)
    assert existing(Job(dataset / "train" / "Track00009", {})) is None
    assert existing(plan_jobs(dataset, "train", 1, 5, (12.0, 12.0))[0]) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seconds", "50", "40"), "--seconds"),
        (("--split", "valid", "--valid-tracks", "2"), "--valid-tracks"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), "--tracks", "1", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
