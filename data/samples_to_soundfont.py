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
from latent_diffusion.errors import DataError
from utilities.audio import to_mono
from utilities.streams import FileSource

_SUFFIXES = (".wav", ".ogg", ".mp3", ".flac")
_NOTE = re.compile(r"([A-G])(#|s|b)?(-?\d)(?!\d)")
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

_LONGEST_SECONDS = 12.0
_FADE_SECONDS = 0.05  # where a recording is cut
_ONSET, _LEAD_SECONDS = 0.02, 0.002  # silence before a note goes up to where it reaches this share of its peak
_PEAK = 0.9
_RELEASE_SECONDS = 0.25

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
_RELEASE, _INSTRUMENT_OF, _KEYS, _SAMPLE_OF = 38, 41, 43, 53
_MONO = 1
_ZEROS = 46


@dataclass(frozen=True)
class Note:
    """A recorded note.

    Attributes:
        pitch: MIDI number; 60 is C4.
        sound: mono float32 (N,).
        rate: in Hz.
    """

    pitch: int
    sound: np.ndarray
    rate: int


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


def read_notes(folder: Path) -> list[Note]:
    """The recorded notes of a folder, from low to high; other files are ignored.

    Raises:
        DataError: there is none, a note is there twice or silent, or a file cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of recorded notes; check --samples")
    notes: dict[int, Note] = {}
    for file in sorted(folder.iterdir()):
        pitch = pitch_of(file.stem) if file.suffix.lower() in _SUFFIXES else None
        if pitch is None:
            continue
        if pitch in notes:
            raise DataError(f"{file}: the note {pitch} is there already; expected one file per note; move one away")
        if not 0 <= pitch <= 127:
            raise DataError(f"{file}: is the note {pitch}; expected one from 0 (C-1) to 127 (G9); rename it")
        source = FileSource(file)
        sound = trim(to_mono(source.read(0, source.samples)).reshape(-1).numpy(), source.sample_rate)
        if not len(sound):
            raise DataError(f"{file}: is silent; expected a note; move it away")
        notes[pitch] = Note(pitch, sound, source.sample_rate)
    if not notes:
        raise DataError(f"{folder}: found no {', '.join(_SUFFIXES)} named by its note, such as A2.wav or Cs4.ogg")
    return [notes[pitch] for pitch in sorted(notes)]


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


def write_soundfont(name: str, notes: Sequence[Note], programs: Sequence[int]) -> bytes:
    """A SoundFont 2 file of one instrument, which every one of the programs plays. Notes are not looped.

    Args:
        name: of the instrument.
        notes: from low to high; all together are brought to a peak.
        programs: MIDI programs, in bank 0.

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
    release = round(1200 * np.log2(_RELEASE_SECONDS)) & 0xFFFF
    zones: list[tuple[int, int]] = []
    for index, (low, high) in enumerate(key_ranges([note.pitch for note in notes])):
        zones += [(_KEYS, low | high << 8), (_RELEASE, release), (_SAMPLE_OF, index)]
    bags = len(notes) + 1  # every list ends with a record that only tells where the last one before it ends
    presets = [(label, program, 0, index, (0, 0, 0)) for index, program in enumerate(programs)]
    hydra = {
        b"phdr": _records(_PRESET, [*presets, (b"EOP", 0, 0, len(programs), (0, 0, 0))]),
        b"pbag": _records(_BAG, [(index, 0) for index in range(len(programs) + 1)]),
        b"pmod": bytes(_MODULATOR_SIZE),
        b"pgen": _records(_GENERATOR, [*[(_INSTRUMENT_OF, 0)] * len(programs), (0, 0)]),
        b"inst": _records(_INSTRUMENT, [(label, 0), (b"EOI", len(notes))]),
        b"ibag": _records(_BAG, [(3 * index, 0) for index in range(bags)]),
        b"imod": bytes(_MODULATOR_SIZE),
        b"igen": _records(_GENERATOR, [*zones, (0, 0)]),
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
        " nearest note. data.render_midi --soundfont STEM=FILE then uses it.",
        epilog="Example: python -m data.samples_to_soundfont --samples package/wav --stem bass --out bass-electric.sf2",
    )
    parser.add_argument("--samples", type=Path, required=True, metavar="DIR", help="folder of recorded notes")
    parser.add_argument("--stem", choices=sorted(PROGRAMS), required=True, help="class whose programs it plays")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the SoundFont (.sf2)")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    notes = read_notes(arguments.samples)
    content = write_soundfont(arguments.out.stem, notes, PROGRAMS[arguments.stem])
    write_file(arguments.out, content)
    print(
        f"{arguments.out}: {len(notes)} notes from {notes[0].pitch} to {notes[-1].pitch}, {len(content) / 1e6:.1f} MB"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
