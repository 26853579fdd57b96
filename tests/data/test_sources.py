"""Sources of real music: Freedoom's WAD files, MMA's grooves, and what data.render_midi draws at random."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from random import Random

import mido
import pretty_midi
import pytest

from data import freedoom, mma, render_midi, variation
from data.charts import Groove, chord_name, kind_of, playable, write_chart
from data.composer.harmony import chord_from_roman, enrich
from data.composer.styles import PROGRESSIONS
from data.grooves import inspect, perform, read_midi
from data.render_midi import class_of_program, read_stems
from data.rendering import check_soundfont, soundfont
from latent_diffusion.errors import DataError

needs_mma = pytest.mark.skipif(
    shutil.which("mma") is None, reason="the real mma is not installed (apt-get install --no-install-recommends mma)"
)
CHORD = re.compile(r"^[A-G]b?(m6|m7b5|m7|m9|m\(add9\)|m|6|7sus|7b9|7|M7|M9|9|add9|sus2|sus4|dim3|dim7|5)?(/[A-G]b?)?$")


def midi_bytes(file: Path, programs: tuple[int, ...] = (0, 25, 33), pitch: int = 50) -> bytes:
    midi = pretty_midi.PrettyMIDI()
    for program in programs:
        instrument = pretty_midi.Instrument(program)
        instrument.notes = [pretty_midi.Note(90, pitch + k, 0.5 * k, 0.5 * k + 0.4) for k in range(4)]
        midi.instruments.append(instrument)
    kit = pretty_midi.Instrument(0, is_drum=True)
    kit.notes = [pretty_midi.Note(90, 36, 0.5 * k, 0.5 * k + 0.1) for k in range(4)]
    midi.instruments.append(kit)
    midi.write(str(file))
    return file.read_bytes()


def write_wad(file: Path, lumps: list[tuple[str, bytes]], kind: bytes = b"IWAD") -> Path:
    offset, entries = 12, b""
    for name, data in lumps:
        entries += struct.pack("<ii8s", offset, len(data), name.encode())
        offset += len(data)
    file.write_bytes(struct.pack("<4sii", kind, len(lumps), offset) + b"".join(d for _, d in lumps) + entries)
    return file


def test_songs_of_a_wad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = midi_bytes(tmp_path / "one"), midi_bytes(tmp_path / "two", pitch=60)
    lumps = [("MAP01", b""), ("D_ONE", one), ("PLAYPAL", b"colours"), ("D_TWO", two), ("D_AGAIN", one)]
    write_wad(tmp_path / "a.wad", [*lumps, ("D_DOOM", b"MUS\x1a of another kind")])
    write_wad(tmp_path / "b.WAD", [("D_ONE", two), ("D_../X", midi_bytes(tmp_path / "three", pitch=70))], b"PWAD")
    assert freedoom.main(["--wad", str(tmp_path), "--out", str(tmp_path / "midi")]) == 0
    assert "3 songs, 2 duplicates, 1 in MUS format left out" in capsys.readouterr().out
    files = sorted(file.name for file in (tmp_path / "midi").iterdir())
    assert files == ["a_one.mid", "a_two.mid", "b_---x.mid"]
    assert (tmp_path / "midi" / "a_two.mid").read_bytes() == two
    stems, _, _ = read_stems(tmp_path / "midi" / "a_one.mid")
    assert all(stems.values())


def test_damaged_wads_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_wad(tmp_path / "good.wad", [("D_ONE", midi_bytes(tmp_path / "one"))]).read_bytes()
    huge = struct.pack("<4sii", b"IWAD", 2**31 - 1, 12)
    bad = {
        "no.wad": (b"PK\x03\x04 something else", "expected a WAD file"),
        "short.wad": (good[:7], "expected a WAD file"),
        "cut.wad": (good[:-20], "do not fit"),
        "huge.wad": (huge, "expected at most"),
        "negative.wad": (struct.pack("<4sii", b"IWAD", -1, 12), "expected at most"),
        "before.wad": (struct.pack("<4sii", b"IWAD", 1, -5) + good[12:], "do not fit"),
        "beyond.wad": (good[:-16] + struct.pack("<ii8s", 12, 2**31 - 1, b"D_ONE"), "ends beyond"),
        "songless.wad": (struct.pack("<4sii", b"IWAD", 0, 12), "found no MIDI song"),
    }
    for name, (data, text) in bad.items():
        file = tmp_path / name
        file.write_bytes(data)
        assert freedoom.main(["--wad", str(file), "--out", str(tmp_path / "midi")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and text in error and name in error
    assert not (tmp_path / "midi").exists()
    assert freedoom.main(["--wad", str(tmp_path / "none"), "--out", str(tmp_path / "midi")]) == 2
    assert freedoom.INSTALL in capsys.readouterr().err


def library() -> list[Groove]:
    """Grooves as MMA's library has them, in three metres."""
    band, small = ("bass", "drums", "guitar"), ("drums", "guitar")
    return [
        *(Groove("casio/rock1", f"Rock{k}", kind_of(k), 4.0, 4, band) for k in ("A", "B", "Intro", "FillA", "End")),
        *(Groove("stdlib/blues", f"Blues{k}", kind_of(k), 4.0, 2, (*band, "piano")) for k in ("", "Sus", "Fill")),
        *(Groove("stdlib/waltz", f"Waltz{k}", kind_of(k), 3.0, 8, band) for k in ("", "Intro8")),
        Groove("stdlib/waltz", "WaltzFour", "main", 4.0, 4, band),
        Groove("stdlib/bossanova", "BossaNova", "main", 4.0, 4, small),
        Groove("kara/slow68", "Slow", "main", 6.0, 2, band),
        Groove("kara/odd", "Odd", "main", 2.5, 2, band),
        Groove("kara/long", "Long", "main", 16.0, 2, band),
    ]


def test_files_that_make_a_song() -> None:
    files = playable(library())
    assert sorted(files) == ["casio/rock1", "kara/odd", "kara/slow68", "stdlib/blues", "stdlib/waltz"]
    assert [g.name for g in files["stdlib/waltz"]] == ["Waltz", "WaltzIntro8"]
    assert [kind_of(n) for n in ("RockMainA", "RockFillAA", "RockIntroB", "BluesEnd")] == [
        "main",
        "fill",
        "intro",
        "end",
    ]


def test_charts_are_valid() -> None:
    files = playable(library())
    metres = {g.full_name: g.beats for members in files.values() for g in members}
    kinds = {g.full_name: g.kind for members in files.values() for g in members}
    names: set[str] = set()
    used: set[str] = set()
    for seed in range(300):
        chart = write_chart(f"1/{seed}", files, (60.0, 100.0))
        head, tempo, *rest = chart.splitlines()
        assert re.fullmatch(r"RndSeed [1-9]\d*", head)
        beats_a_minute = int(tempo.removeprefix("Tempo "))
        assert 40 <= beats_a_minute <= 400
        expected, metre, sounding = 1, None, []
        for text in rest:
            if text.startswith("Groove "):
                groove = text.removeprefix("Groove ")
                assert metre in (None, metres[groove]), "the metre changes within a song"
                metre = metres[groove]
                sounding.append(groove)
                continue
            number, *entries = text.split()
            assert metre is not None and int(number) == expected, "a bar before the first groove, or out of order"
            expected += 1
            assert len(entries) == 1 or len(entries) <= metre
            assert entries[0] != "/"
            for entry in entries:
                assert entry == "/" or CHORD.match(entry), f"{entry} in {text}"
                names.add(entry)
        assert any(kinds[groove] == "main" for groove in sounding)
        assert all(kinds[groove] != "intro" for groove in sounding[1:])
        seconds = (expected - 1) * metre * 60.0 / beats_a_minute
        assert 30.0 < seconds < 190.0
        used.update(sounding)
    assert used == set(metres)
    assert len(names) > 80
    assert write_chart("1/7", files, (60.0, 100.0)) == write_chart("1/7", files, (60.0, 100.0))
    assert write_chart("1/7", files, (60.0, 100.0)) != write_chart("1/8", files, (60.0, 100.0))


def test_chord_names() -> None:
    wanted = {("I", 0): "C", ("ii7", 0): "Dm7", ("bVIImaj7", 5): "EbM7", ("V7sus4", 7): "D7sus", ("I/5", 10): "Bb/F"}
    wanted |= {("viidim", 0): "Bdim3", ("iim7b5", 9): "Bm7b5", ("#Idim7", 0): "Dbdim7", ("#iv", 0): "Gbm"}
    assert {key: chord_name(*key) for key in wanted} == wanted
    with pytest.raises(ValueError, match="Roman numeral"):
        chord_name("H7", 0)


def test_commands_say_how_to_install_mma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mma.main(["--out", str(tmp_path / "midi"), "--songs", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "apt-get install" in error and "mma" in error
    assert not (tmp_path / "midi").exists()


def test_remapping_fills_absent_classes(tmp_path: Path) -> None:
    midi_bytes(tmp_path / "a.mid", programs=(0, 33, 48, 73), pitch=60)
    midi = mido.MidiFile(str(tmp_path / "a.mid"))
    midi.tracks[1].insert(0, mido.Message("control_change", channel=0, control=0, value=5, time=7))
    before = [sum(message.time for message in track) for track in midi.tracks]
    assert set(mma.finish(midi, None)) == {"bass", "drums", "piano"}
    assert set(mma.finish(midi, Random(1))) == {"bass", "drums", "guitar", "piano"}
    messages = [message for track in midi.tracks for message in track]
    assert not any(message.type == "control_change" and message.control in (0, 32) for message in messages)
    assert [sum(message.time for message in track) for track in midi.tracks] == before
    programs = [m.program for m in messages if m.type == "program_change" and m.channel != 9]
    assert sum(class_of_program(program) is None for program in programs) == 1


@needs_mma
def test_every_chord_is_known_to_mma() -> None:
    """mma refuses a chart with a chord that it does not know; its quality counts, so one key is enough."""
    numerals = {n for pool in PROGRESSIONS.values() for p in pool for n in p.split()} | {"V7sus4"}
    numerals |= {enrich(n, amount) for n in numerals for amount in ("sevenths", "colours")}
    bars = "\n".join(f"{i} {chord_name(n, 0)}" for i, n in enumerate(sorted(numerals), 1))
    midi = read_midi(perform(f"Tempo 120\nGroove casio/8beat1:8Beat1\n{bars}\n"))
    assert midi.length == pytest.approx(2.0 * len(numerals), abs=1.0)
    with pytest.raises(DataError, match="refuses the chart"):
        perform("Groove casio/8beat1:8Beat1\n1 Cnonsense\n")


@needs_mma
def test_songs_by_mma(tmp_path: Path) -> None:
    grooves = inspect(mma.LIBRARY, "casio/8beat1")
    assert {"main", "intro", "end"} == {g.kind for g in grooves}
    assert all(g.beats == 4.0 for g in grooves)
    files = playable(grooves)
    for folder in ("a", "b"):
        assert len(mma.make_song(tmp_path / folder, 1, 5, files, (20.0, 30.0), False) or ()) >= 3
    one, two = ((tmp_path / folder / "song-00001.mid").read_bytes() for folder in ("a", "b"))
    assert one == two
    stems, end, _ = read_stems(tmp_path / "a" / "song-00001.mid")
    assert sum(bool(parts) for parts in stems.values()) >= 3 and 15.0 < end < 60.0
    assert mma.make_song(tmp_path / "a", 1, 5, files, (20.0, 30.0), False) is None
    with pytest.raises(DataError, match="was made by"):
        mma.make_song(tmp_path / "a", 1, 6, files, (20.0, 30.0), False)


def instruments(file: Path) -> dict[str, list[pretty_midi.Instrument]]:
    return read_stems(file)[0]


def test_variation_changes_what_it_says(tmp_path: Path) -> None:
    midi_bytes(tmp_path / "a.mid", programs=(0, 4, 25, 33), pitch=60)
    stems = instruments(tmp_path / "a.mid")
    nothing = variation.draw({"midi": "a.mid", "min_stems": 1}, "a.mid", stems)
    assert nothing == variation.Variation({}, {})
    recipe = {"programs": "random", "transpose": "random", "tempo": "random", "soundfonts": ["x.sf2", "y.sf2"]}
    drawn = [variation.draw({**recipe, "seed": seed}, "a.mid", stems) for seed in range(60)]
    assert {v.transpose for v in drawn} == set(range(-5, 7))
    assert all(0.85 <= v.tempo <= 1.15 for v in drawn)
    assert {tuple(v.soundfonts.values()) for v in drawn} == {
        (a, b, c, d) for a in XY for b in XY for c in XY for d in XY
    }
    for stem in ("bass", "guitar", "piano"):
        found = {new for v in drawn for new in v.programs[stem].values()}
        assert len(found) >= 6 and {class_of_program(program) for program in found} == {stem}
    assert all(len(set(v.programs["piano"].values())) == 2 for v in drawn), "two instruments stay two"
    assert variation.draw({**recipe, "seed": 3}, "a.mid", stems) == drawn[3]
    alone = variation.draw({"transpose": "random", "seed": 3}, "a.mid", stems)
    assert alone.transpose == drawn[3].transpose

    varied = variation.Variation({}, {"guitar": {25: 29}}, 5, 1.1)
    variation.apply(varied, stems)
    assert [note.pitch for note in stems["guitar"][0].notes] == [65, 66, 67, 68]
    assert [note.pitch for note in stems["drums"][0].notes] == [36] * 4
    assert stems["guitar"][0].program == 29 and stems["bass"][0].program == 33
    assert stems["drums"][0].notes[1].start == pytest.approx(0.5 / 1.1, abs=1e-3)


XY = ("x.sf2", "y.sf2")


def test_rendering_with_variation_is_recorded_and_repeats(tmp_path: Path) -> None:
    (tmp_path / "midi").mkdir()
    midi_bytes(tmp_path / "midi" / "a.mid", programs=(0, 25, 33))
    fonts = [tmp_path / name for name in ("one.sf2", "two.sf2")]
    for font in fonts:
        font.write_bytes(soundfont())
    options = ["--midi", str(tmp_path / "midi"), "--workers", "1", "--quiet"]
    random = ["--soundfont", *map(str, fonts), "--programs", "random", "--transpose", "random", "--tempo", "random"]
    plain, one, two = (tmp_path / name for name in ("plain", "one", "two"))
    assert render_midi.main([*options, "--out", str(plain)]) == 0
    for out in (one, two):
        assert render_midi.main([*options, *random, "--seed", "4", "--out", str(out)]) == 0
    track = Path("train") / "Track00001"
    metadata = json.loads((plain / track / "song.json").read_text())
    assert metadata["recipe"] == {"midi": str(tmp_path / "midi" / "a.mid"), "min_stems": 1}
    assert set(metadata["soundfonts"].values()) == {"TimGM6mb.sf2"}
    assert (metadata["transpose"], metadata["tempo_factor"], metadata["replaced_programs"]) == (0, 1.0, {})
    metadata = json.loads((one / track / "song.json").read_text())
    assert metadata == json.loads((two / track / "song.json").read_text())
    assert set(metadata["soundfonts"].values()) <= {"one.sf2", "two.sf2"} and len(metadata["soundfonts"]) == 4
    assert metadata["programs"]["bass"] == [metadata["replaced_programs"]["bass"]["33"]]
    for stem in ("bass", "drums", "guitar", "piano"):
        name = f"{stem}.wav"
        assert (one / track / name).read_bytes() == (two / track / name).read_bytes()
    assert (one / track / "guitar.wav").read_bytes() != (plain / track / "guitar.wav").read_bytes()


def test_soundfonts_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = bytearray(soundfont()[:400])
    head[head.index(b"ifil") + 8] = 3
    (tmp_path / "a.sf3").write_bytes(bytes(head))
    (tmp_path / "b.sf2").write_bytes(b"no sound")
    (tmp_path / "c.sf2").write_bytes(soundfont()[:400])
    check_soundfont(tmp_path / "c.sf2")
    midi_bytes(tmp_path / "song.mid")
    for name, text in (("a.sf3", "SoundFont 2 only"), ("b.sf2", "expected a SoundFont 2"), ("d.sf2", "cannot be read")):
        arguments = ["--midi", str(tmp_path), "--out", str(tmp_path / "out"), "--soundfont", str(tmp_path / name)]
        assert render_midi.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and text in error and name in error
    assert not (tmp_path / "out").exists()


def test_transposition_stays_within_midi() -> None:
    chord = pretty_midi.Instrument(0)
    chord.notes = [pretty_midi.Note(90, pitch, 0.0, 1.0) for pitch in (0, 3, 64, 125, 127)]
    variation.apply(variation.Variation({}, {}, -5), {"piano": [chord]})
    assert [note.pitch for note in chord.notes] == [7, 10, 59, 120, 122]
    variation.apply(variation.Variation({}, {}, 6), {"piano": [chord]})
    assert [note.pitch for note in chord.notes] == [13, 16, 65, 126, 116]


def test_roman_numerals_and_names_agree() -> None:
    """The name's root and the bass after the slash are those of the chord that the composer would play."""
    roots = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
    for numeral in {n for pool in PROGRESSIONS.values() for p in pool for n in p.split()}:
        for tonic in range(12):
            chord, name = chord_from_roman(numeral, tonic), chord_name(numeral, tonic)
            assert re.match(r"[A-G]b?", name.split("/")[0]).group() == roots[chord.root]
            assert (name.split("/")[1] if "/" in name else roots[chord.root]) == roots[chord.bass]
