"""Makes a SoundFont of recorded notes: python -m data.samples_to_soundfont --samples DIR --stem bass --out FILE.sf2."""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.building import run_command, write_file
from data.render_midi import PROGRAMS
from data.rendering import STEMS
from latent_diffusion.errors import DataError
from utilities.audio import FileSource, to_mono

_SUFFIXES = (".wav", ".ogg", ".mp3", ".flac")
_NOTE = re.compile(r"([A-G])(#|s|b)?(-?\d)(?!\d)")
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

# General MIDI's keys of the drums, by what a file's name says; the first that fits.
_DRUMS = (
    ("kick|bass|bd", (35, 36)),
    ("side ?stick|rim", (37,)),
    ("snare|sn", (38, 40)),
    ("clap", (39,)),
    ("closed", (42,)),
    ("pedal", (44,)),
    ("open", (46,)),
    ("tom.*lo|lo.*tom|floor", (41, 43, 45)),
    ("tom.*mid|mid.*tom", (47, 48)),
    ("tom.*hi|hi.*tom", (50,)),
    ("ride", (51, 53, 59)),
    ("splash", (55,)),
    ("cowbell", (56,)),
    ("crash|cymbal", (49, 52, 57)),
)
_RIDE, _CRASH = (51, 53, 59), (49, 52, 57)
_HATS = (42, 44, 46)
_LAYERS = {"soft": (0, 79), "hard": (80, 127)}
_KIT_BANK = 128

_LONGEST_SECONDS = 12.0
_FADE_SECONDS = 0.05  # where a recording is cut
_ONSET, _LEAD_SECONDS = 0.02, 0.002  # silence before a note goes up to where it reaches this share of its peak
_PEAK = 0.9
_RELEASE_SECONDS, _DRUM_RELEASE_SECONDS = 0.25, 100.0  # to fall by 100 dB

# The SoundFont 2.04 specification, chapter 7: records, generators, and the zeros that must follow a sample.
_PRESET = np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)])
_BAG = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
_GENERATOR = np.dtype([("kind", "<u2"), ("amount", "<u2")])
_INSTRUMENT = np.dtype([("name", "S20"), ("bag", "<u2")])
_SAMPLE = np.dtype(
    [
        ("name", "S20"),
        *((field, "<u4") for field in ("start", "end", "loop_start", "loop_end", "rate")),
        *(("pitch", "u1"), ("correction", "i1"), ("link", "<u2"), ("kind", "<u2")),
    ]
)
_MODULATOR_SIZE = 10
_RELEASE, _INSTRUMENT_OF, _KEYS, _VELOCITIES, _SAMPLE_OF, _TUNING, _CHOKE = 38, 41, 43, 44, 53, 56, 57
_MONO = 1
_ZEROS = 46


@dataclass(frozen=True)
class Note:
    """A recorded note, or stroke of a drum.

    Attributes:
        pitch: MIDI number; 60 is C4. Of a drum its first key.
        sound: mono float32 (N,).
        rate: in Hz.
    """

    pitch: int
    sound: np.ndarray
    rate: int


@dataclass(frozen=True)
class Zone:
    """What a recording plays.

    Attributes:
        note: index of the recording.
        keys: lowest and highest key.
        velocities: lowest and highest velocity.
        choke: number of a group of drums of which a new stroke ends the others; 0: none.
    """

    note: int
    keys: tuple[int, int]
    velocities: tuple[int, int] = (0, 127)
    choke: int = 0


def pitch_of(name: str) -> int | None:
    """The MIDI number of a note's name at the start of a file's name (C4 is 60): "As1", "F#3v10", "Bb2"; or None."""
    found = _NOTE.match(name)
    if not found:
        return None
    letter, accidental, octave = found.groups()
    return _SEMITONES[letter] + {"#": 1, "s": 1, "b": -1, None: 0}[accidental] + 12 * (int(octave) + 1)


def trim(sound: np.ndarray, rate: int) -> np.ndarray:
    """Begins a note where it sounds, and fades it out where it is cut or ends."""
    loud = np.flatnonzero(np.abs(sound) > _ONSET * np.abs(sound).max())
    if not len(loud):
        return sound[:0]
    sound = sound[max(0, loud[0] - round(_LEAD_SECONDS * rate)) :][: round(_LONGEST_SECONDS * rate)].copy()
    fade = min(len(sound), round(_FADE_SECONDS * rate))
    sound[len(sound) - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return sound


def find_samples(folder: Path) -> list[Path]:
    """The sound files of a folder, sorted.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of recorded notes; check --samples")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)


def read_note(file: Path, pitch: int) -> Note:
    """A recording, trimmed.

    Raises:
        DataError: it cannot be read, or is silent.
    """
    source = FileSource(file)
    sound = trim(to_mono(source.read(0, source.samples)).reshape(-1).numpy(), source.sample_rate)
    if not len(sound):
        raise DataError(f"{file}: is silent; expected a note; move it away")
    return Note(pitch, sound, source.sample_rate)


def read_instrument(folder: Path) -> tuple[list[Note], list[Zone]]:
    """The recorded notes of a folder, from low to high, and the keys that they play; other files are ignored.

    Raises:
        DataError: there is none, a note is there twice or silent, or a file cannot be read.
    """
    files: dict[int, Path] = {}
    for file in find_samples(folder):
        pitch = pitch_of(file.stem)
        if pitch is None:
            continue
        if pitch in files:
            raise DataError(f"{file}: the note {pitch} is there already; expected one file per note; move one away")
        if not 0 <= pitch <= 127:
            raise DataError(f"{file}: is the note {pitch}; expected one from 0 (C-1) to 127 (G9); rename it")
        files[pitch] = file
    if not files:
        raise DataError(f"{folder}: found no {', '.join(_SUFFIXES)} named by its note, such as A2.wav or Cs4.ogg")
    pitches = sorted(files)
    zones = [Zone(index, keys) for index, keys in enumerate(key_ranges(pitches))]
    return [read_note(files[pitch], pitch) for pitch in pitches], zones


def read_kit(folder: Path) -> tuple[list[Note], list[Zone]]:
    """The drums of a folder, known by their files' names, and the keys that they play; other files are ignored.

    Of two files for one drum, one named soft and one hard, the velocity decides; of several else the first is taken.
    Without a ride its keys play the soft crash, or the crash. The hi-hats choke each other.

    Raises:
        DataError: there is none, or a file cannot be read.
    """
    drums: dict[tuple[int, ...], dict[str, Path]] = {}
    for file in find_samples(folder):
        name = file.stem.lower().replace("_", " ").replace("-", " ")
        keys = next((keys for pattern, keys in _DRUMS if re.search(rf"\b(?:{pattern})", name)), None)
        if keys is not None:
            layer = next((layer for layer in _LAYERS if layer in name), "")
            drums.setdefault(keys, {}).setdefault(layer, file)
    if not drums:
        raise DataError(
            f"{folder}: found no {', '.join(_SUFFIXES)} named by its drum, such as kick.wav or snare_soft.ogg"
        )
    notes, zones = [], []
    for keys, layers in drums.items():
        if all(layer in layers for layer in _LAYERS):
            layers = {layer: layers[layer] for layer in _LAYERS}
        else:
            layers = {"": next(iter(layers.values()))}
        for layer, file in layers.items():
            notes.append(read_note(file, keys[0]))
            played = [(key, _LAYERS.get(layer, (0, 127))) for key in keys]
            if keys == _CRASH and _RIDE not in drums and layer != "hard":
                played += [(key, (0, 127)) for key in _RIDE]
            zones += [
                Zone(len(notes) - 1, (key, key), velocities, choke=int(key in _HATS)) for key, velocities in played
            ]
    return notes, zones


def key_ranges(pitches: Sequence[int]) -> list[tuple[int, int]]:
    """Lowest and highest key of every note: up to halfway to its neighbours, the outermost to the ends of the keyboard.

    Args:
        pitches: rising.
    """
    starts = [0, *((low + high) // 2 + 1 for low, high in zip(pitches, pitches[1:], strict=False))]
    return list(zip(starts, [*(start - 1 for start in starts[1:]), 127], strict=True))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _records(kind: np.dtype, rows: Iterable[tuple]) -> bytes:
    return np.array(list(rows), dtype=kind).tobytes()


def _generators(zone: Zone, drums: bool) -> list[tuple[int, int]]:
    """A zone as generators, in the order that the specification asks for."""
    release = round(1200 * np.log2(_DRUM_RELEASE_SECONDS if drums else _RELEASE_SECONDS)) & 0xFFFF
    ranges = [(_KEYS, zone.keys[0] | zone.keys[1] << 8), (_VELOCITIES, zone.velocities[0] | zone.velocities[1] << 8)]
    return [*ranges, (_RELEASE, release), (_TUNING, 0 if drums else 100), (_CHOKE, zone.choke), (_SAMPLE_OF, zone.note)]


def write_soundfont(
    name: str, notes: Sequence[Note], zones: Sequence[Zone], presets: Sequence[tuple[int, int]]
) -> bytes:
    """A SoundFont 2 file of one instrument, which every one of the presets plays. Recordings are not looped.

    Args:
        name: of the instrument.
        notes: recordings; all together are brought to a peak.
        zones: what they play.
        presets: bank and MIDI program of each. In bank 128, that of kits, all keys of a zone sound alike, and a stroke
            sounds to its end.

    Returns:
        The file's bytes.
    """
    gain = _PEAK / max(float(np.abs(note.sound).max()) for note in notes)
    label, place, samples, pcm = name.encode("ascii", "replace")[:19], 0, [], []
    for note in notes:
        end = place + len(note.sound)
        samples.append((f"note {note.pitch}", place, end, place, end, note.rate, note.pitch, 0, 0, _MONO))
        pcm += [np.round(note.sound * gain * 32767.0).astype("<i2"), np.zeros(_ZEROS, "<i2")]
        place = end + _ZEROS
    generators = [_generators(zone, presets[0][0] == _KIT_BANK) for zone in zones]
    each, count = len(generators[0]), len(presets)  # every list ends with a record that tells where the one before ends
    named = [(label, program, bank, index, (0, 0, 0)) for index, (bank, program) in enumerate(presets)]
    hydra = {
        b"phdr": _records(_PRESET, [*named, (b"EOP", 0, 0, count, (0, 0, 0))]),
        b"pbag": _records(_BAG, [(index, 0) for index in range(count + 1)]),
        b"pmod": bytes(_MODULATOR_SIZE),
        b"pgen": _records(_GENERATOR, [*[(_INSTRUMENT_OF, 0)] * count, (0, 0)]),
        b"inst": _records(_INSTRUMENT, [(label, 0), (b"EOI", len(zones))]),
        b"ibag": _records(_BAG, [(each * index, 0) for index in range(len(zones) + 1)]),
        b"imod": bytes(_MODULATOR_SIZE),
        b"igen": _records(_GENERATOR, [*[item for zone in generators for item in zone], (0, 0)]),
        b"shdr": _records(_SAMPLE, [*samples, (b"EOS", *[0] * 9)]),
    }
    information = {
        b"ifil": struct.pack("<HH", 2, 1),
        b"isng": b"EMU8000\0",
        b"INAM": label + b"\0" * (2 - len(label) % 2),
    }
    lists = {b"INFO": information, b"sdta": {b"smpl": np.concatenate(pcm).tobytes()}, b"pdta": hydra}
    body = b"".join(
        _chunk(b"LIST", kind + b"".join(_chunk(*item) for item in chunks.items())) for kind, chunks in lists.items()
    )
    return _chunk(b"RIFF", b"sfbk" + body)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.samples_to_soundfont",
        description="Makes a SoundFont 2 file of a folder of recorded notes, whose names begin with the note: A2.wav,"
        " Cs4.ogg, F#3v10.ogg (C4 is MIDI's 60). It plays for every General MIDI program of its stem, each key by the"
        " nearest note. For drums the names say the drum: kick.wav, snare_soft.wav, hat_closed.wav, tom_lo.wav,"
        " crash.wav ... data.render_midi --soundfont STEM=FILE then uses it.",
        epilog="Example: python -m data.samples_to_soundfont --samples package/wav --stem bass --out bass-electric.sf2",
    )
    parser.add_argument("--samples", type=Path, required=True, metavar="DIR", help="folder of recorded notes")
    parser.add_argument("--stem", choices=STEMS, required=True, help="class whose programs it plays")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the SoundFont (.sf2)")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    drums = arguments.stem == "drums"
    notes, zones = (read_kit if drums else read_instrument)(arguments.samples)
    presets = [(_KIT_BANK, 0)] if drums else [(0, program) for program in PROGRAMS[arguments.stem]]
    content = write_soundfont(arguments.out.stem, notes, zones, presets)
    write_file(arguments.out, content)
    first, last = min(note.pitch for note in notes), max(note.pitch for note in notes)
    print(f"{arguments.out}: {len(notes)} notes from {first} to {last}, {len(content) / 1e6:.1f} MB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
