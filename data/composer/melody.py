"""Melodies: a short motif, repeated and answered over the harmony, in four-bar phrases with room to breathe."""

from __future__ import annotations

from random import Random

from data.composer.harmony import chord_at, chord_scale, nearest, step_in_scale
from data.composer.score import Metre, Note, Section

# Ways to fill one felt beat (onset, length), in shares of it; the density chooses among them.
_CELLS: tuple[tuple[float, tuple[tuple[float, float], ...]], ...] = (
    (0.0, ()),
    (0.2, ((0.0, 1.0),)),
    (0.45, ((0.5, 0.5),)),
    (0.55, ((0.0, 0.5), (0.5, 0.5))),
    (0.7, ((0.0, 0.75), (0.75, 0.25))),
    (0.85, ((0.0, 0.5), (0.5, 0.25), (0.75, 0.25))),
    (0.95, ((0.0, 0.25), (0.25, 0.25), (0.5, 0.5))),
)
_COMPOUND_CELLS: tuple[tuple[float, tuple[tuple[float, float], ...]], ...] = (
    (0.0, ()),
    (0.2, ((0.0, 1.0),)),
    (0.4, ((0.0, 2 / 3), (2 / 3, 1 / 3))),
    (0.6, ((2 / 3, 1 / 3),)),
    (0.8, ((0.0, 1 / 3), (1 / 3, 1 / 3), (2 / 3, 1 / 3))),
)


def _rhythm(rng: Random, metre: Metre, density: float) -> list[tuple[float, float]]:
    """(onset, duration) in beats of a one-bar motif; it always has at least two notes."""
    cells = _COMPOUND_CELLS if metre.name == "6/8" else _CELLS
    weights = [1.0 / (0.08 + abs(weight - density)) for weight, _ in cells]
    while True:
        onsets: list[tuple[float, float]] = []
        for pulse in metre.pulses:
            for onset, length in rng.choices(cells, weights)[0][1]:
                onsets.append((pulse + onset * metre.pulse, length * metre.pulse))
        if len(onsets) >= 2:
            return onsets


def _motif(rng: Random, metre: Metre, density: float) -> list[tuple[float, float, int]]:
    """A rhythm with a contour: (onset, duration, scale steps from the note before)."""
    direction = rng.choice((-1, 1))
    motif = []
    for onset, duration in _rhythm(rng, metre, density):
        if rng.random() < 0.3:
            direction = -direction
        motif.append((onset, duration, direction * rng.choices((0, 1, 2, 3), (2, 6, 2, 1))[0]))
    return motif


def write_melody(
    section: Section,
    metre: Metre,
    tonic: int,
    mode: str,
    rng: Random,
    low: int,
    high: int,
    density: float,
    velocity: int,
) -> list[Note]:
    """A melody for a whole section.

    Args:
        section: gives the chords.
        metre: the song's metre.
        tonic: pitch class of the key.
        mode: a key of `harmony.MODES`.
        rng: source of every choice.
        low: lowest pitch.
        high: highest pitch.
        density: 0 (long notes) to 1 (sixteenths).
        velocity: of an unaccented note.

    Returns:
        Notes relative to the section's start. Notes on the felt beats are chord tones.
    """
    question, answer = _motif(rng, metre, density), _motif(rng, metre, density * 0.8)
    plan = rng.choice(((0, 0, 1, 2), (0, 1, 0, 2), (0, 3, 1, 2), (0, 0, 0, 2)))  # 2: a long note, 3: silence
    notes: list[Note] = []
    centre = (low + high) // 2
    pitch = centre + rng.randint(-3, 3)
    tonic = (tonic + section.transposition) % 12
    for bar in range(section.bars):
        at = bar * metre.beats
        kind = plan[bar % 4]
        if kind == 3:
            continue
        if kind == 2:
            chord = chord_at(section.chords, at)
            pitch = nearest(chord.pitch_classes, 0.6 * pitch + 0.4 * centre, low, high)
            notes.append(Note(at, min(chord.duration, metre.beats * rng.choice((0.5, 0.7))), pitch, velocity))
            if rng.random() < 0.4:  # a pick-up into the next phrase
                scale = chord_scale(tonic, mode, chord)
                for back in (0.5, 1.0):
                    pitch = step_in_scale(scale, pitch, rng.choice((-1, 1)), low, high)
                    notes.append(Note(at + metre.beats - (1.5 - back), 0.5, pitch, velocity - 6))
            continue
        for onset, duration, move in question if kind == 0 else answer:
            chord = chord_at(section.chords, at + onset)
            scale = chord_scale(tonic, mode, chord)
            # Away from the middle of its range a melody turns back to it.
            pull = -1 if abs(pitch - centre) > 5 and (pitch > centre) == (move > 0) else 1
            pitch = step_in_scale(scale, pitch, move * pull, low, high)
            on_pulse = any(abs(onset - pulse) < 1e-6 for pulse in metre.pulses)
            if on_pulse or duration >= 1.0:
                pitch = nearest(chord.pitch_classes, pitch, low, high)
            accent = 8 if onset == 0.0 else 3 if on_pulse else 0
            notes.append(Note(at + onset, duration * 0.95, pitch, velocity + accent + rng.randint(-3, 3)))
    return notes
