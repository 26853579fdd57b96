"""Scales, chords from Roman numerals, progressions laid over bars, and voice leading."""

from __future__ import annotations

import re
from itertools import pairwise

from data.composer.score import Chord, Metre, Section

MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
}
MINOR_MODES = ("minor", "dorian")

_QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7, 12),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "9": (0, 4, 7, 10, 14),
    "m9": (0, 3, 7, 10, 14),
    "maj9": (0, 4, 7, 11, 14),
    "add9": (0, 4, 7, 14),
    "madd9": (0, 3, 7, 14),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "7sus4": (0, 5, 7, 10),
    "7b9": (0, 4, 7, 10, 13),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
}
_DEGREES = {"I": 0, "II": 2, "III": 4, "IV": 5, "V": 7, "VI": 9, "VII": 11}
_ROMAN = re.compile(r"^([b#]?)(VII|VI|IV|V|III|II|I)([a-z0-9]*)(?:/([b#]?)([1-7]))?$", re.IGNORECASE)
_MAJOR = MODES["major"]
_ALTER = {"": 0, "b": -1, "#": 1}


def chord_from_roman(numeral: str, tonic: int, start: float = 0.0, duration: float = 4.0) -> Chord:
    """Reads a Roman numeral, counted from the major scale of the tonic: `bVII`, `ii7`, `V7sus4`, `I/3`, `viidim`.

    Args:
        numeral: accidental, degree (lower case: minor), quality, and after a slash the scale degree in the bass.
        tonic: pitch class of the key.
        start: beats from the start of the section.
        duration: beats.

    Returns:
        The chord.

    Raises:
        ValueError: the numeral cannot be read.
    """
    match = _ROMAN.match(numeral)
    if match is None:
        raise ValueError(f"not a Roman numeral: {numeral!r}")
    accidental, degree, suffix, bass_accidental, bass_degree = match.groups()
    if degree.islower() and not suffix.startswith(("dim", "m", "sus")):
        suffix = "m" + suffix
    if suffix not in _QUALITIES:
        raise ValueError(f"not a chord quality: {suffix!r} in {numeral!r}")
    root = (tonic + _DEGREES[degree.upper()] + _ALTER[accidental]) % 12
    bass = root
    if bass_degree:
        bass = (tonic + _MAJOR[int(bass_degree) - 1] + _ALTER[bass_accidental or ""]) % 12
    return Chord(root, _QUALITIES[suffix], bass, numeral, start, duration)


def enrich(numeral: str, amount: str) -> str:
    """Adds sevenths or ninths to a plain triad where the style wants them (`amount`: triads, sevenths or colours)."""
    match = _ROMAN.match(numeral)
    if match is None or match.group(3) or amount == "triads" or "/" in numeral:
        return numeral
    degree = match.group(2)
    if amount == "colours":
        return numeral + ("add9" if degree in ("I", "IV", "VI", "III") or degree.islower() else "sus4")
    if degree.islower():
        return numeral + "7"
    return numeral + ("7" if degree == "V" else "maj7")


def lay_out(
    progression: str, tonic: int, bars: int, bar_beats: float, chords_a_bar: float, amount: str, turnaround: str | None
) -> tuple[Chord, ...]:
    """Repeats a progression over a section.

    Args:
        progression: Roman numerals, separated by spaces.
        tonic: pitch class of the key.
        bars: length of the section.
        bar_beats: quarter notes in a bar.
        chords_a_bar: 0.5, 1 or 2.
        amount: see `enrich`.
        turnaround: numeral that replaces the last chord and leads on, or None.

    Returns:
        The chords in order; a chord that is repeated is held, not named twice.
    """
    numerals = [enrich(numeral, amount) for numeral in progression.split()]
    length = bar_beats / chords_a_bar
    count = max(1, round(bars * chords_a_bar))
    names = [numerals[i % len(numerals)] for i in range(count)]
    if turnaround and count > 2:
        names[-1] = turnaround
    chords: list[Chord] = []
    for i, name in enumerate(names):
        start = i * length
        duration = min(length, bars * bar_beats - start)
        chords.append(chord_from_roman(name, tonic, start, duration))
    return tuple(chords)


def chord_at(chords: tuple[Chord, ...], beat: float) -> Chord:
    """The chord that sounds at a position of the section."""
    for chord in chords:
        if chord.start - 1e-6 <= beat < chord.end - 1e-6:
            return chord
    return chords[-1]


def chord_after(chords: tuple[Chord, ...], chord: Chord) -> Chord:
    """The following chord; after the last the first, as sections usually lead to their like."""
    for one, following in pairwise(chords):
        if one is chord:
            return following
    return chords[0]


def with_changes(
    onsets: list[tuple[float, float]], section: Section, metre: Metre, bar: int
) -> list[tuple[float, float]]:
    """Adds to a bar's (onset, duration) a stroke where the chord changes while a note should be held across it."""
    result = list(onsets)
    for chord in section.chords:
        at = chord.start - bar * metre.beats
        if 0.0 < at < metre.beats - 1e-6 and any(o < at - 1e-6 and o + d > at + 0.25 for o, d in onsets):
            until = min([o for o, _ in onsets if o > at + 1e-6] + [metre.beats, at + chord.duration])
            if until - at > 0.4:
                result.append((at, (until - at) * 0.97))
    return sorted(result)


def chord_scale(tonic: int, mode: str, chord: Chord) -> tuple[int, ...]:
    """Pitch classes that a melody may use over a chord: the key's scale, with the notes that clash replaced.

    A scale note a semitone away from a chord tone that is foreign to the scale gives way to that chord tone
    (over V7 in minor the leading note replaces the seventh degree, over iv in major the flat sixth the sixth).
    """
    scale = {(tonic + step) % 12 for step in MODES[mode]}
    tones = set(chord.pitch_classes)
    foreign = tones - scale
    clashing = {pc for pc in scale - tones if any((pc - f) % 12 in (1, 11) for f in foreign)}
    return tuple(sorted((scale - clashing) | tones))


def nearest(pitch_classes: tuple[int, ...], target: float, low: int, high: int) -> int:
    """The pitch of one of the classes in [low, high] that is closest to the target."""
    fitting = [pitch for pitch in range(low, high + 1) if pitch % 12 in pitch_classes]
    return min(fitting, key=lambda pitch: (abs(pitch - target), pitch))


def step_in_scale(scale: tuple[int, ...], pitch: int, steps: int, low: int, high: int) -> int:
    """Moves a pitch by so many notes of a scale; it turns back at the limits."""
    ladder = [p for p in range(low, high + 1) if p % 12 in scale]
    position = min(range(len(ladder)), key=lambda i: abs(ladder[i] - pitch)) + steps
    if position < 0:
        position = -position
    if position >= len(ladder):
        position = 2 * (len(ladder) - 1) - position
    return ladder[max(0, min(len(ladder) - 1, position))]


def voice(
    chord: Chord, previous: list[int] | None, low: int, high: int, size: int, rootless: bool = False
) -> list[int]:
    """A close voicing that moves as little as possible from the one before it.

    Args:
        chord: what to voice.
        previous: pitches of the voicing before, or None at the start.
        low: lowest pitch allowed.
        high: highest pitch allowed.
        size: how many notes at most.
        rootless: leave the root to the bass where the chord has at least four notes.

    Returns:
        Pitches, ascending.
    """
    classes = [(chord.root + i) % 12 for i in chord.intervals]
    classes = list(dict.fromkeys(classes))
    if rootless and len(classes) > 3:
        classes = classes[1:]
    while len(classes) > size:
        fifth = (chord.root + chord.fifth) % 12
        classes.remove(fifth if fifth in classes and len(classes) > 3 else classes[0])
    centre = (low + high) / 2
    best: tuple[float, list[int]] | None = None
    for bottom in range(low, high + 1):
        if bottom % 12 not in classes:
            continue
        order = sorted(classes, key=lambda pc, bottom=bottom: (pc - bottom) % 12)
        pitches = [bottom + (pc - bottom) % 12 for pc in order]
        if pitches[-1] > high:
            continue
        movement = 0.0
        if previous:
            movement = sum(min(abs(p - q) for q in previous) for p in pitches) + abs(pitches[-1] - previous[-1])
        muddy = sum(4 for a, b in pairwise(pitches) if b - a == 1 or (a < 52 and b - a < 4))
        cost = movement + 0.35 * abs(sum(pitches) / len(pitches) - centre) + muddy
        if best is None or cost < best[0]:
            best = (cost, pitches)
    if best is None:  # the range is narrower than the chord
        return sorted({nearest((pc,), centre, low, high) for pc in classes})
    return best[1]
