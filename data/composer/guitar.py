"""Guitar parts: strumming, picking, riffs, power chords, scratching, off-beats, melodies."""

from __future__ import annotations

from random import Random

from data.composer.harmony import chord_at, nearest, voice, with_changes
from data.composer.melody import write_melody
from data.composer.score import Chord, Metre, Note, Section

MANNERS = (
    "strum", "fingerpick", "arpeggio", "power", "palm-mute", "riff", "chank", "skank", "bossa", "boom-chick", "held",
    "freddie", "lead",
)  # fmt: skip

# Eighths or sixteenths of a bar: D down, U up, x muted, . nothing.
_STRUMS = {
    ("4/4", 8): ("D.DU.UDU", "D.D.D.DU", "DUDUDUDU", "D..UDUDU", "D.DUD.DU", "D...DU.U"),
    ("4/4", 16): ("D..UD.DU.UD.D.DU", "D.D.x.DU.UD.x.DU", "D...D.DU..D.DUDU"),
    ("3/4", 6): ("D.D.D.", "D.DUDU", "D..UDU"),
    ("6/8", 6): ("D.DD.U", "DDDDDD", "D..D.U", "D.UD.U"),
}
_CHANKS = ("x.xDx.x.x.xDxUx.", "..xD..x...xD.Ux.", "x.x.D.xUx.x.D..U", "...D..DU...D..x.", "D..U..D...x.D.xU")


def shape(chord: Chord, low: int, high: int) -> list[int]:
    """A chord over the strings, root (or the given bass) lowest, then fifth, octave, third ... as hands do it."""
    bottom = nearest((chord.bass,), low + 4, low, low + 13)
    pitches = [bottom]
    wanted = [(chord.root + i) % 12 for i in chord.intervals]
    while len(pitches) < 6:
        above = [p for p in range(pitches[-1] + (5 if len(pitches) == 1 else 3), min(high, pitches[-1] + 8) + 1)]
        above = [p for p in above if p % 12 in wanted]
        if not above:
            break
        unused = [p for p in above if p % 12 not in {q % 12 for q in pitches}]
        pitches.append((unused or above)[0])
    return pitches


def _stroke(pitches: list[int], at: float, duration: float, velocity: int, up: bool, rng: Random) -> list[Note]:
    """One stroke across the strings; an up-stroke is lighter and meets the high strings first."""
    order = pitches[::-1][: rng.choice((3, 4, 4, 5))] if up else pitches
    gap = rng.uniform(0.005, 0.014)
    return [
        Note(at, duration, pitch, int(velocity - (10 if up else 0) - rng.randint(0, 6)), i * gap)
        for i, pitch in enumerate(order)
    ]


def _strummed(section: Section, metre: Metre, rng: Random, low: int, velocity: int) -> list[Note]:
    divisions = [d for name, d in _STRUMS if name == metre.name]
    division = rng.choice(divisions)
    pattern = rng.choice(_STRUMS[metre.name, division])
    step = metre.beats / division
    notes: list[Note] = []
    for bar in range(section.bars):
        for i, mark in enumerate(pattern):
            if mark == ".":
                continue
            at = bar * metre.beats + i * step
            rest = next((j - i for j in range(i + 1, division) if pattern[j] != "."), division - i)
            chord = chord_at(section.chords, at)
            pitches = shape(chord, low, low + 30)
            if mark == "x":
                notes += _stroke(pitches[2:5], at, 0.08, velocity - 24, False, rng)
            else:
                accent = 8 if any(abs(i * step - p) < 1e-6 for p in metre.pulses) else 0
                notes += _stroke(pitches, at, rest * step * 0.96, velocity - 10 + accent, mark == "U", rng)
    return notes


def _picked(section: Section, metre: Metre, rng: Random, low: int, velocity: int, alternate: bool) -> list[Note]:
    """Fingerpicking with an alternating thumb, or a plain arpeggio; strings ring until the chord changes."""
    strings = round(metre.beats * 2)
    order = [rng.choice((2, 3, 4, 5)) for _ in range(strings)]
    for i in range(1, strings):
        while order[i] == order[i - 1]:
            order[i] = rng.choice((2, 3, 4, 5))
    notes: list[Note] = []
    for bar in range(section.bars):
        for i in range(strings):
            at = bar * metre.beats + i * 0.5
            chord = chord_at(section.chords, at)
            pitches = shape(chord, low, low + 30)
            ring = min(chord.end - at, 2.0 if alternate else 1.5)
            on_pulse = any(abs(i * 0.5 - p) < 1e-6 for p in metre.pulses)
            if alternate and on_pulse:
                thumb = pitches[0] if i == 0 or i == strings // 2 else pitches[1]
                notes.append(Note(at, ring, thumb, velocity + 4))
                if rng.random() < 0.3:
                    notes.append(Note(at, ring, pitches[-1], velocity - 4))
            else:
                index = 0 if i == 0 else min(order[i], len(pitches) - 1)
                notes.append(Note(at, ring, pitches[index], velocity - (4 if on_pulse else 10)))
    return notes


def _power(section: Section, metre: Metre, rng: Random, velocity: int, muted: bool) -> list[Note]:
    """Root, fifth and octave; either let ring with pushes, or eighths with the palm on the strings."""
    steps = round(metre.beats * 2)
    accents = set(rng.sample(range(steps), rng.choice((1, 2, 3)))) | {0}
    notes: list[Note] = []
    for bar in range(section.bars):
        for i in range(steps):
            at = bar * metre.beats + i * 0.5
            chord = chord_at(section.chords, at)
            root = nearest((chord.root,), 45, 40, 52)
            ring = i in accents
            if not muted and not ring:
                continue
            if ring:
                following = next((j for j in range(i + 1, steps) if muted or j in accents), steps)
                length = min(chord.end - at, (following - i) * 0.5) * 0.97
                pitches = [root, root + chord.fifth, root + 12]
                notes += [Note(at, length, p, velocity + rng.randint(-4, 4), k * 0.003) for k, p in enumerate(pitches)]
            else:
                notes.append(Note(at, 0.2, root, velocity - 16 + rng.randint(-5, 5)))
                notes.append(Note(at, 0.2, root + chord.fifth, velocity - 20 + rng.randint(-5, 5)))
    return notes


def _riff(section: Section, metre: Metre, rng: Random, velocity: int, minor: bool) -> list[Note]:
    """A short figure of the pentatonic scale that moves along with the roots."""
    pentatonic = (0, 3, 5, 7, 10, 12) if minor else (0, 2, 4, 7, 9, 12)
    steps = round(metre.beats * (4 if rng.random() < 0.35 else 2))
    unit = metre.beats / steps
    onsets = [0] + sorted(rng.sample(range(1, steps), max(3, round(steps * rng.uniform(0.35, 0.7))) - 1))
    index = 0
    figure: list[tuple[float, float, int]] = []
    for i, onset in enumerate(onsets):
        until = onsets[i + 1] if i + 1 < len(onsets) else steps
        figure.append((onset * unit, min(1.0, (until - onset) * unit) * 0.92, pentatonic[index]))
        index = max(0, min(len(pentatonic) - 1, index + rng.choice((-2, -1, 1, 1, 2))))
    tail = [(a, d, rng.choice(pentatonic) if a > metre.beats / 2 else p) for a, d, p in figure]
    notes: list[Note] = []
    for bar in range(section.bars):
        for onset, length, interval in tail if bar % 4 == 3 else figure:
            at = bar * metre.beats + onset
            chord = chord_at(section.chords, at)
            own_third = chord.third if interval in (3, 4) else interval
            pitch = nearest((chord.root,), 45, 40, 52) + own_third
            notes.append(Note(at, length, pitch, velocity + (6 if onset == 0 else rng.randint(-6, 2))))
    return notes


def _chords_on(
    section: Section,
    metre: Metre,
    rng: Random,
    onsets: list[tuple[float, float]],
    low: int,
    velocity: int,
    size: int = 4,
) -> list[Note]:
    """Close chords at the given (onset, duration) of every bar."""
    notes: list[Note] = []
    previous: list[int] | None = None
    for bar in range(section.bars):
        for onset, length in with_changes(onsets, section, metre, bar):
            at = bar * metre.beats + onset
            chord = chord_at(section.chords, at)
            previous = voice(chord, previous, low, low + 19, size)
            up = round(onset * 2) % 2 == 1
            notes += _stroke(previous, at, min(length, chord.end - at), velocity, up, rng)
    return notes


def _chank(section: Section, metre: Metre, rng: Random, velocity: int) -> list[Note]:
    """Funk scratching: short high chords between muted strings."""
    pattern = rng.choice(_CHANKS)[: metre.steps]
    notes: list[Note] = []
    previous: list[int] | None = None
    for bar in range(section.bars):
        for i, mark in enumerate(pattern):
            if mark == ".":
                continue
            at = bar * metre.beats + i / 4
            previous = voice(chord_at(section.chords, at), previous, 57, 76, 3)
            if mark == "x":
                notes += _stroke(previous, at, 0.06, velocity - 30, i % 2 == 1, rng)
            else:
                notes += _stroke(previous, at, 0.2 if mark == "U" else 0.3, velocity, mark == "U", rng)
    return notes


def write_guitar(section: Section, metre: Metre, tonic: int, mode: str, rng: Random, density: float) -> list[Note]:
    """The guitar of a section.

    Args:
        section: chords, manner and the bars in which the guitar plays.
        metre: the song's metre.
        tonic: pitch class of the key.
        mode: the key's mode.
        rng: source of every choice.
        density: of a melody, 0 to 1.

    Returns:
        Notes relative to the section's start.
    """
    manner = section.manners["guitar"]
    first, last = (bar * metre.beats for bar in section.entries["guitar"])
    velocity = 84 + round((section.intensity - 0.6) * 24)
    bar, half = metre.beats, metre.pulses[len(metre.pulses) // 2]
    if manner == "strum":
        notes = _strummed(section, metre, rng, 40, velocity)
    elif manner in ("fingerpick", "arpeggio"):
        notes = _picked(section, metre, rng, rng.choice((40, 43, 47)), velocity, manner == "fingerpick")
    elif manner in ("power", "palm-mute"):
        notes = _power(section, metre, rng, velocity + 4, manner == "palm-mute")
    elif manner == "riff":
        notes = _riff(section, metre, rng, velocity + 4, mode in ("minor", "dorian", "mixolydian"))
    elif manner == "chank":
        notes = _chank(section, metre, rng, velocity + 4)
    elif manner == "skank":
        offbeats = [(p + metre.pulse / 2, 0.22) for p in metre.pulses]
        notes = _chords_on(section, metre, rng, offbeats, 55, velocity + 6)
    elif manner == "bossa":
        rhythm = rng.choice((((0.0, 0.4), (1.5, 0.4), (2.5, 0.9)), ((0.0, 0.9), (1.5, 0.9), (3.0, 0.4), (3.5, 0.4))))
        notes = _chords_on(section, metre, rng, [r for r in rhythm if r[0] < bar], 50, velocity)
        for b in range(section.bars):
            root = nearest((chord_at(section.chords, b * bar).bass,), 44, 40, 51)
            notes += [
                Note(b * bar, half * 0.9, root, velocity - 6),
                Note(b * bar + half, half * 0.9, root, velocity - 12),
            ]
    elif manner == "boom-chick":
        notes = _chords_on(section, metre, rng, [(p, 0.45) for p in metre.pulses[1::2] or (half,)], 52, velocity)
        for b in range(section.bars):
            chord = chord_at(section.chords, b * bar)
            root = nearest((chord.bass,), 44, 40, 51)
            notes.append(Note(b * bar, 0.8, root, velocity))
            fifth = nearest(((chord.root + chord.fifth) % 12,), 43, 40, 51)
            if len(metre.pulses) > 2:
                notes.append(Note(b * bar + metre.pulses[2], 0.8, fifth, velocity - 4))
    elif manner == "freddie":  # four short chords to the bar, as in swing bands
        notes = _chords_on(section, metre, rng, [(p, 0.6) for p in metre.pulses], 50, velocity - 6, 3)
    elif manner == "held":
        onsets = [(0.0, bar * 0.98)] if rng.random() < 0.5 else [(0.0, half * 0.98), (half, (bar - half) * 0.98)]
        notes = _chords_on(section, metre, rng, onsets, 50, velocity)
    elif manner == "lead":
        low = rng.choice((57, 60, 62))
        notes = write_melody(section, metre, tonic, mode, rng, low, low + 19, density, velocity + 8)
    else:
        raise ValueError(f"no such guitar manner: {manner!r}")
    kept = [n for n in notes if first - 1e-6 <= n.start < last - 1e-6]
    return [Note(n.start, min(n.duration, last - n.start), n.pitch, n.velocity, n.delay_seconds) for n in kept]
