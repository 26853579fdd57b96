"""A plan for music: where beats and bars fall and which chord sounds, as inputs of the network for every frame."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from latent_diffusion.errors import ConfigError

PITCH_CLASSES = 12
BEAT, BAR, CHORD = slice(0, 3), slice(3, 6), slice(6, 31)  # rows of a plan; the first of each says that it is known
ROWS = 31


@dataclass(frozen=True)
class PlannedChord:
    """A chord from `start` to `end` (seconds): its pitch classes and that of its lowest note, C = 0."""

    start: float
    end: float
    pitch_classes: tuple[int, ...]
    bass: int


def plan_rows(
    beats: Sequence[float], bars: Sequence[float], chords: Sequence[PlannedChord], times: np.ndarray
) -> np.ndarray:
    """The plan at given times.

    Beats and bars are phases, as cosine and sine: (1, 0) is on the beat. Before the first and after the last beat
    the nearest tempo goes on.

    Args:
        beats, bars: times of beats and of first beats of bars, seconds, rising; fewer than two: unknown.
        chords: in the order of time; none at a time: unknown there.
        times: (T,) seconds.

    Returns:
        (ROWS, T) float32; rows of what is unknown are 0.
    """
    rows = np.zeros((ROWS, len(times)), dtype=np.float32)
    for part, marks in ((BEAT, beats), (BAR, bars)):
        if len(marks) > 1:
            angle = 2 * np.pi * _position(np.asarray(marks, dtype=np.float64), times)
            rows[part] = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])
    for chord in chords:
        inside = (times >= chord.start) & (times < chord.end)
        rows[CHORD.start, inside] = 1.0
        for pitch_class in chord.pitch_classes:
            rows[CHORD.start + 1 + pitch_class % PITCH_CLASSES, inside] = 1.0
        rows[CHORD.start + 1 + PITCH_CLASSES + chord.bass % PITCH_CLASSES, inside] = 1.0
    return rows


def _position(marks: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How many marks have passed at each time, with the part of the way to the next."""
    place = np.interp(times, marks, np.arange(len(marks)))
    first, last = marks[1] - marks[0], marks[-1] - marks[-2]
    place = np.where(times < marks[0], (times - marks[0]) / first, place)
    return np.where(times > marks[-1], len(marks) - 1 + (times - marks[-1]) / last, place)


# ---- what a person asks for

NOTES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "9": (0, 4, 7, 10, 14),
    "m9": (0, 3, 7, 10, 14),
    "add9": (0, 4, 7, 14),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
    "aug": (0, 4, 8),
}
TEMPO = (40.0, 240.0)  # beats a minute
DRAWN_TEMPO = (76, 144)
DRAWN_PROGRESSIONS = {  # semitones above the key's tonic, and the quality
    "major": ("0 9m 5 7", "0 7 9m 5", "0 5 7 5", "0 9m 2m 7", "9m 5 0 7", "0 4m 5 7", "0 2m 5 7", "0 5 9m 7"),
    "minor": ("0m 8 3 10", "0m 10 8 10", "0m 5m 8 7", "0m 5m 7 0m", "0m 3 10 5", "0m 8 5m 7"),
}
_CHORD = re.compile(r"([A-G])([#b]?)([^/]*)(?:/([A-G])([#b]?))?")


def parse_chord(text: str) -> tuple[tuple[int, ...], int]:
    """Pitch classes and the lowest one of a chord as musicians write it: Am, F#7, Bbmaj7, C/G.

    Raises:
        ConfigError: not such a chord.
    """
    match = _CHORD.fullmatch(text)
    if match is None or match[3] not in QUALITIES:
        raise ConfigError(
            f"chord: found {text[:40]!r}, expected a note, A to G with # or b, and one of: major "
            f"{' '.join(name for name in QUALITIES if name)}; and, if wanted, / and the lowest note"
        )
    root = _pitch_class(match[1], match[2])
    bass = _pitch_class(match[4], match[5]) if match[4] else root
    return tuple((root + interval) % PITCH_CLASSES for interval in QUALITIES[match[3]]), bass


def _pitch_class(note: str, accidental: str) -> int:
    return (NOTES[note] + {"": 0, "#": 1, "b": -1}[accidental]) % PITCH_CLASSES


@dataclass(frozen=True)
class Plan:
    """The beats and chords of a piece that is to be made.

    Args:
        tempo: beats a minute, steady; None: free.
        chords: repeated, one for each bar; empty: free. Chords need a tempo.
        beats_per_bar: beats of a bar.
        first_beat: when the first bar begins, seconds.
    """

    tempo: float | None = None
    chords: tuple[str, ...] = ()
    beats_per_bar: int = 4
    first_beat: float = 0.0

    def __post_init__(self) -> None:
        if self.tempo is not None and not TEMPO[0] <= self.tempo <= TEMPO[1]:
            raise ConfigError(f"tempo: found {self.tempo:g}, expected {TEMPO[0]:g} to {TEMPO[1]:g} beats a minute")
        if not 1 <= self.beats_per_bar <= 12:
            raise ConfigError(f"beats per bar: found {self.beats_per_bar}, expected 1 to 12")
        if self.chords and self.tempo is None:
            raise ConfigError("chords: found without a tempo, which says how long a bar lasts; give one")
        for chord in self.chords:
            parse_chord(chord)

    def __str__(self) -> str:
        """For a line that tells what was made."""
        parts = [] if self.tempo is None else [f"{self.tempo:g} beats a minute"]
        return ", ".join([*parts, *([" ".join(self.chords)] if self.chords else [])]) or "free"

    def rows(self, times: np.ndarray) -> np.ndarray:
        """Its `plan_rows` (ROWS, T) at times (T,) in seconds."""
        if self.tempo is None:
            return np.zeros((ROWS, len(times)), dtype=np.float32)
        bar = self.beats_per_bar * 60.0 / self.tempo
        first, last = (math.floor((times[i] - self.first_beat) / bar) for i in (0, -1))
        bars = self.first_beat + bar * np.arange(first, last + 2)
        beats = self.first_beat + bar / self.beats_per_bar * np.arange(
            first * self.beats_per_bar, (last + 1) * self.beats_per_bar + 1
        )
        chords = []
        for number, start in enumerate(bars[:-1], start=first) if self.chords else ():
            pitch_classes, bass = parse_chord(self.chords[number % len(self.chords)])
            chords.append(PlannedChord(start, start + bar, pitch_classes, bass))
        return plan_rows(beats, bars, chords, times)


def drawn_plan(seed: int) -> Plan:
    """A plan drawn at random: a tempo, a key, and four common chords of it."""
    rng = Random(f"plan {seed}")
    tonic, mode = rng.randrange(PITCH_CLASSES), rng.choice(list(DRAWN_PROGRESSIONS))
    degrees = rng.choice(DRAWN_PROGRESSIONS[mode]).split()
    chords = tuple(
        NAMES[(tonic + int(degree.rstrip("m"))) % PITCH_CLASSES] + "m" * degree.endswith("m") for degree in degrees
    )
    return Plan(float(rng.randint(*DRAWN_TEMPO)), chords)


NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
