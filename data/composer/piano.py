"""Piano and keyboard parts: comping, broken chords, stride, off-beats, shells, montunos, melodies."""

from __future__ import annotations

from random import Random

from data.composer.harmony import chord_at, nearest, voice, with_changes
from data.composer.melody import write_melody
from data.composer.score import Chord, Metre, Note, Section

MANNERS = ("block", "pulse", "broken", "alberti", "stride", "stabs", "jazz", "montuno", "pad", "syncopated", "lead")


def _left(chord: Chord, low: int = 36, high: int = 50) -> int:
    return nearest((chord.bass,), (low + high) // 2, low, high)


def _comp(
    section: Section,
    metre: Metre,
    patterns: list[list[tuple[float, float]]],
    span: tuple[int, int],
    velocity: int,
    rng: Random,
    size: int = 4,
    rootless: bool = False,
) -> list[Note]:
    """Right-hand chords with smooth voice leading, at the (onset, duration) of alternating bar patterns."""
    notes: list[Note] = []
    previous: list[int] | None = None
    for bar in range(section.bars):
        for onset, length in with_changes(patterns[bar % len(patterns)], section, metre, bar):
            at = bar * metre.beats + onset
            chord = chord_at(section.chords, at)
            previous = voice(chord, previous, *span, size, rootless)
            accent = 5 if onset == 0 else 0
            strength = velocity + accent + rng.randint(-4, 3)
            top = len(previous) - 1
            for i, pitch in enumerate(previous):
                notes.append(Note(at, min(length, chord.end - at), pitch, strength - (0 if i == top else 6)))
    return notes


def _bass_notes(section: Section, metre: Metre, velocity: int, alone: bool) -> list[Note]:
    """The left hand: the bass of every chord, held; in low octaves only when no bass player is there."""
    low = 36 if alone else 42
    notes: list[Note] = []
    for chord in section.chords:
        at = chord.start
        while at < chord.end - 1e-6:
            length = min(metre.beats, chord.end - at) * 0.97
            pitch = _left(chord, low, low + 12)
            notes.append(Note(at, length, pitch, velocity))
            if alone and pitch - 12 >= 28:
                notes.append(Note(at, length, pitch - 12, velocity - 4))
            at += metre.beats
    return notes


def _broken(
    section: Section, metre: Metre, span: tuple[int, int], velocity: int, rng: Random, alberti: bool
) -> list[Note]:
    """Chords one note at a time, up and down or in the order low-high-middle-high."""
    step = 0.25 if (rng.random() < 0.4 and not alberti) else 0.5
    up_down = rng.random() < 0.6
    notes: list[Note] = []
    previous: list[int] | None = None
    current: Chord | None = None
    for i in range(round(section.bars * metre.beats / step)):
        at = i * step
        chord = chord_at(section.chords, at)
        if chord is not current:
            previous = voice(chord, previous, *span, 4)
            current = chord
        assert previous is not None
        tones = previous if alberti else [*previous, previous[0] + 12]
        position = round((at % metre.beats) / step)
        if alberti:
            pitch = (tones[0], tones[-1], tones[len(tones) // 2], tones[-1])[position % 4]
        else:
            cycle = tones + tones[-2:0:-1] if up_down else tones
            pitch = cycle[position % len(cycle)]
        accent = 8 if any(abs(at % metre.beats - p) < 1e-6 for p in metre.pulses) else 0
        ring = min(chord.end - at, step * (1.0 if alberti else 2.5))
        notes.append(Note(at, ring, pitch, velocity - 8 + accent + rng.randint(-4, 3)))
    return notes


def _stride(section: Section, metre: Metre, velocity: int, rng: Random, low: int) -> list[Note]:
    """Low note on the strong beats, chord on the others."""
    notes: list[Note] = []
    previous: list[int] | None = None
    for bar in range(section.bars):
        for i, pulse in enumerate(metre.pulses):
            at = bar * metre.beats + pulse
            chord = chord_at(section.chords, at)
            strong = i == 0 or (len(metre.pulses) == 4 and i == 2)
            if strong:
                root = _left(chord, low, low + 12)
                pitch = root if i == 0 else nearest(((chord.root + chord.fifth) % 12,), low + 4, low - 2, low + 12)
                notes.append(Note(at, 0.8, pitch, velocity + 2))
            else:
                previous = voice(chord, previous, 52, 69, 4)
                notes += [Note(at, 0.5, p, velocity - 8 + rng.randint(-3, 3)) for p in previous]
    return notes


def _montuno(section: Section, metre: Metre, velocity: int, rng: Random) -> list[Note]:
    """A syncopated figure in octaves around the chord tones."""
    rhythm = rng.choice(((0.0, 0.5, 1.5, 2.5, 3.5), (0.0, 1.0, 1.5, 2.5, 3.0, 3.5), (0.5, 1.5, 2.0, 2.5, 3.5)))
    order = [rng.choice((0, 1, 2, 3)) for _ in rhythm]
    notes: list[Note] = []
    previous: list[int] | None = None
    for bar in range(section.bars):
        for onset, which in zip(rhythm, order, strict=True):
            if onset >= metre.beats:
                continue
            at = bar * metre.beats + onset
            previous = voice(chord_at(section.chords, at), previous, 58, 75, 4)
            pitch = previous[which % len(previous)]
            notes += [Note(at, 0.4, pitch, velocity), Note(at, 0.4, pitch + 12, velocity + 4)]
            if which == 0:
                notes += [
                    Note(at, 0.4, previous[1], velocity - 8),
                    Note(at, 0.4, previous[2 % len(previous)], velocity - 8),
                ]
    return notes


def _syncopation(metre: Metre, rng: Random) -> list[list[tuple[float, float]]]:
    """Two related bars of pushed chords, as in pop ballads and gospel."""
    if metre.name == "6/8":
        options = [[(0.0, 1.4), (1.5, 0.9), (2.5, 0.4)], [(0.0, 0.9), (1.0, 0.4), (1.5, 1.4)]]
    elif metre.name == "3/4":
        options = [[(0.0, 0.9), (1.0, 0.4), (1.5, 1.4)], [(0.5, 0.9), (2.0, 0.9)], [(0.0, 1.4), (1.5, 1.4)]]
    else:
        options = [
            [(0.0, 1.4), (1.5, 1.4), (3.0, 0.9)],
            [(0.0, 1.4), (1.5, 2.4)],
            [(0.0, 0.7), (0.75, 0.7), (1.5, 1.4), (3.0, 0.9)],
            [(0.5, 0.9), (1.5, 0.9), (2.5, 1.4)],
        ]
    return [rng.choice(options), rng.choice(options)]


def write_piano(section: Section, metre: Metre, tonic: int, mode: str, rng: Random, density: float) -> list[Note]:
    """The piano of a section.

    Args:
        section: chords, manner and the bars in which the piano plays.
        metre: the song's metre.
        tonic: pitch class of the key.
        mode: the key's mode.
        rng: source of every choice.
        density: of a melody, 0 to 1.

    Returns:
        Notes relative to the section's start. The register leaves room: low beside a guitar melody, high beside chords.
    """
    manner = section.manners["piano"]
    guitar = section.manners.get("guitar")
    first, last = (bar * metre.beats for bar in section.entries["piano"])
    velocity = 78 + round((section.intensity - 0.6) * 26)
    span = (48, 67) if guitar == "lead" else (57, 77) if guitar else (53, 73)
    bar, half = metre.beats, metre.pulses[len(metre.pulses) // 2]
    alone = "bass" not in section.entries
    offbeats = [(p + metre.pulse / 2, 0.3) for p in metre.pulses]
    if manner == "block":
        whole, halves = [(0.0, bar * 0.97)], [(0.0, half * 0.97), (half, (bar - half) * 0.97)]
        notes = _comp(section, metre, rng.choice(([halves], [whole, halves], [whole])), span, velocity, rng)
        notes += _bass_notes(section, metre, velocity, alone)
    elif manner == "pulse":
        step = 0.5 if metre.name == "6/8" or rng.random() < 0.25 else 1.0
        notes = _comp(
            section, metre, [[(i * step, step * 0.85) for i in range(round(bar / step))]], span, velocity, rng
        )
        notes += _bass_notes(section, metre, velocity, alone)
    elif manner in ("broken", "alberti"):
        notes = _broken(section, metre, span, velocity + 4, rng, manner == "alberti")
        notes += _bass_notes(section, metre, velocity - 4, alone)
    elif manner == "stride":
        notes = _stride(section, metre, velocity, rng, 33 if alone else 39)
    elif manner == "stabs":
        picks = offbeats if rng.random() < 0.5 else [o for o in offbeats if rng.random() < 0.6] or offbeats[:1]
        notes = _comp(section, metre, [picks], span, velocity + 6, rng)
    elif manner == "jazz":
        charleston = [
            [(0.0, 0.6), (1.5, 0.4)],
            [(1.0, 0.4), (2.5, 1.0)],
            [(0.5, 0.5), (2.0, 0.8)],
            [(1.5, 1.2)],
            [(0.0, 1.5)],
        ]
        bars = [[n for n in rng.choice(charleston) if n[0] < bar] for _ in range(4)]
        notes = _comp(section, metre, bars, (51, 69), velocity, rng, 4, True)
        if alone:
            notes += _bass_notes(section, metre, velocity - 4, alone)
    elif manner == "montuno":
        notes = _montuno(section, metre, velocity, rng)
    elif manner == "pad":
        notes = _comp(section, metre, [[(0.0, bar * 0.99)]], (span[0] - 3, span[1]), velocity - 4, rng, 5)
    elif manner == "syncopated":
        notes = _comp(section, metre, _syncopation(metre, rng), span, velocity, rng)
        notes += _bass_notes(section, metre, velocity - 2, alone)
    elif manner == "lead":
        notes = write_melody(section, metre, tonic, mode, rng, 64, 84, density, velocity + 10)
        left = [[(0.0, half * 0.97), (half, (bar - half) * 0.97)]] if rng.random() < 0.5 else [[(0.0, bar * 0.97)]]
        notes += _comp(section, metre, left, (47, 62), velocity - 12, rng, 3)
    else:
        raise ValueError(f"no such piano manner: {manner!r}")
    kept = [n for n in notes if first - 1e-6 <= n.start < last - 1e-6]
    return [Note(n.start, min(n.duration, last - n.start), n.pitch, n.velocity) for n in kept]
