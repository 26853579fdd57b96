"""What a composed song consists of: metres, chords, notes, sections, and their performance as a PrettyMIDI object.

Positions are beats (quarter notes). Everything is written on a straight grid; swing, ritardando and the players' small
inaccuracies are added once, when the song is performed, so that the parts stay easy to check against the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pretty_midi

STEMS = ("bass", "drums", "guitar", "piano")


@dataclass(frozen=True)
class Metre:
    """A time signature: bar length in quarter notes, and where its pulses (the felt beats) lie."""

    name: str
    beats: float
    pulses: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Sixteenth notes in a bar."""
        return round(self.beats * 4)

    @property
    def pulse(self) -> float:
        """Quarter notes in one felt beat."""
        return self.beats / len(self.pulses)


METRES = {
    "4/4": Metre("4/4", 4.0, (0.0, 1.0, 2.0, 3.0)),
    "3/4": Metre("3/4", 3.0, (0.0, 1.0, 2.0)),
    "6/8": Metre("6/8", 3.0, (0.0, 1.5)),
}


@dataclass(frozen=True)
class Note:
    """One note. `start`, `duration`: beats; `delay_seconds`: a wanted delay (strings of a strum)."""

    start: float
    duration: float
    pitch: int
    velocity: int
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Chord:
    """A chord that sounds from `start` for `duration` beats, counted from the beginning of its section."""

    root: int  # pitch class
    intervals: tuple[int, ...]  # semitones above the root; above 12: a tension
    bass: int  # pitch class of the lowest note
    name: str
    start: float
    duration: float

    @property
    def end(self) -> float:
        return self.start + self.duration

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.root + i) % 12 for i in self.intervals))

    @property
    def third(self) -> int:
        """Interval of the third, or of what a suspended chord has in its place."""
        return self.intervals[1]

    @property
    def fifth(self) -> int:
        return next((i for i in self.intervals if i in (6, 7, 8)), 7)


@dataclass(frozen=True)
class Section:
    """A part of the form. Chords are relative to the section's start.

    `entries` gives, for every stem that plays, the bars [first, last) of this section in which it plays; `manners` what
    each stem does in it (the name of a playing manner of that instrument).
    """

    label: str
    first_bar: int
    bars: int
    intensity: float
    transposition: int
    chords: tuple[Chord, ...]
    entries: dict[str, tuple[int, int]]
    manners: dict[str, str]
    final: bool = False


@dataclass
class Song:
    """A composed song: its parameters, form and notes (absolute beats)."""

    seed: str
    style: str
    tempo: float  # felt beats a minute
    metre: Metre
    swing: float  # where the off-beat of `swing_unit` falls, 0.5 = straight
    swing_unit: float  # beats that are swung: 1 (eighths) or 0.5 (sixteenths)
    tonic: int
    mode: str
    programs: dict[str, int]
    ritardando: float
    reverb: dict[str, int]
    level_db: dict[str, float]
    sections: list[Section] = field(default_factory=list)
    notes: dict[str, list[Note]] = field(default_factory=dict)

    @property
    def bars(self) -> int:
        return sum(section.bars for section in self.sections)

    @property
    def seconds_per_beat(self) -> float:
        return 60.0 / (self.tempo * self.metre.pulse)

    @property
    def key(self) -> str:
        return f"{pretty_midi.note_number_to_name(self.tonic + 60)[:-1]} {self.mode}"

    def seconds(self, beat: float) -> float:
        """Time of a position on the straight grid: swing, then tempo, then the slowing down in the last bar."""
        whole, rest = divmod(beat, self.swing_unit)
        phase = rest / self.swing_unit
        warped = phase * 2 * self.swing if phase < 0.5 else self.swing + (phase - 0.5) * 2 * (1 - self.swing)
        beat = (whole + warped) * self.swing_unit
        slow_from = (self.bars - 1) * self.metre.beats
        over = max(0.0, beat - slow_from)
        return (beat + self.ritardando * over * over / self.metre.beats) * self.seconds_per_beat


# Standard deviation of the players' timing, seconds, and how far behind (+) the beat a player may sit.
_TIMING = {"bass": (0.006, 0.008), "drums": (0.004, 0.0), "guitar": (0.008, 0.006), "piano": (0.007, 0.006)}


def perform(song: Song) -> pretty_midi.PrettyMIDI:
    """Plays a song: grid positions become seconds, with swing, ritardando and humanised timing and velocity.

    Args:
        song: the composed song.

    Returns:
        One instrument a stem, named after it, in seconds.
    """
    midi = pretty_midi.PrettyMIDI(resolution=960, initial_tempo=60.0 / song.seconds_per_beat)
    numerator, denominator = (int(part) for part in song.metre.name.split("/"))
    midi.time_signature_changes.append(pretty_midi.TimeSignature(numerator, denominator, 0.0))
    for stem in STEMS:
        rng = Random(f"{song.seed}/perform/{stem}")
        spread, behind = _TIMING[stem]
        lag = rng.uniform(-0.3, 1.0) * behind
        drums = stem == "drums"
        instrument = pretty_midi.Instrument(song.programs[stem], is_drum=drums, name=stem)
        instrument.control_changes.append(pretty_midi.ControlChange(91, song.reverb[stem], 0.0))
        last_at: dict[float, float] = {}
        for note in sorted(song.notes[stem], key=lambda n: (n.start, n.pitch)):
            # Notes struck together move together, or a chord would smear.
            shared = last_at.setdefault(note.start, max(-2.5, min(2.5, rng.gauss(0.0, 1.0))) * spread)
            start = max(0.0, song.seconds(note.start) + shared + lag + note.delay_seconds + rng.uniform(-0.001, 0.001))
            end = max(start + 0.04, song.seconds(note.start + note.duration) + shared)
            velocity = int(max(12, min(126, note.velocity + rng.gauss(0.0, 3.5))))
            instrument.notes.append(pretty_midi.Note(velocity, note.pitch, start, end))
        if not drums:
            instrument.notes = _without_overlaps(instrument.notes)
        midi.instruments.append(instrument)
    return midi


def _without_overlaps(notes: list[pretty_midi.Note]) -> list[pretty_midi.Note]:
    """Ends a note before the same key is struck again; otherwise the first note-off would cut the second note."""
    latest: dict[int, pretty_midi.Note] = {}
    for note in sorted(notes, key=lambda n: n.start):
        before = latest.get(note.pitch)
        if before is not None and before.end > note.start - 0.005:
            before.end = max(before.start + 0.01, note.start - 0.005)
        latest[note.pitch] = note
    return sorted(notes, key=lambda n: (n.start, n.pitch))


def shifted(notes: list[Note], beats: float) -> list[Note]:
    """The same notes, `beats` later."""
    return [replace(note, start=note.start + beats) for note in notes]
