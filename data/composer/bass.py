"""Bass lines: one manner a section, over the chords, aware of the kick and of the next chord."""

from __future__ import annotations

from random import Random

from data.composer.harmony import chord_after, chord_scale, nearest, step_in_scale
from data.composer.score import Chord, Metre, Note, Section

LOW, HIGH = 28, 50
MANNERS = (
    "roots",
    "eighths",
    "root-fifth",
    "walking",
    "kick",
    "octaves",
    "syncopated",
    "arpeggio",
    "pedal",
    "tumbao",
    "dub",
)


def _pitch(pitch_class: int, around: int) -> int:
    return nearest((pitch_class,), around, LOW, HIGH)


def _approach(rng: Random, target: int) -> int:
    """A note that leads to the target from a step away."""
    return max(LOW, min(HIGH, target + rng.choice((-1, -1, 1, -2, 2))))


def _walking(chord: Chord, following: Chord, scale: tuple[int, ...], metre: Metre, rng: Random, at: int) -> list[Note]:
    """Quarter notes: the root, a way through the scale or chord, and a leading note to the next root."""
    beats = max(1, round(chord.duration))
    pitch = _pitch(chord.bass, at)
    target = _pitch(following.bass, pitch)
    notes = [Note(0.0, 0.95, pitch, 92)]
    direction = 1 if target >= pitch else -1
    for beat in range(1, beats):
        if beat == beats - 1:
            pitch = _approach(rng, target)
        elif rng.random() < 0.45:
            pitch = nearest(chord.pitch_classes, pitch + direction * 4, LOW, HIGH)
        else:
            pitch = step_in_scale(scale, pitch, direction * rng.choice((1, 1, 2)), LOW, HIGH)
        if pitch > HIGH - 4 or pitch < LOW + 3:
            direction = -direction
        notes.append(Note(float(beat), 0.92, pitch, 84 + rng.randint(-4, 6)))
        if rng.random() < 0.08:  # a skipped note before the next beat
            notes.append(Note(beat + 0.5, 0.35, pitch, 66))
    return notes


def _bar_pattern(manner: str, metre: Metre, kicks: list[float], rng: Random) -> list[tuple[float, float, str]]:
    """(onset, duration, what) of one bar: R root, F fifth, O octave, T third, A approach to the next chord."""
    bar, pulse = metre.beats, metre.pulse
    pulses = metre.pulses
    if manner in ("roots", "pedal"):
        return (
            [(0.0, bar * 0.97, "R")]
            if rng.random() < 0.6
            else [(0.0, bar - pulse, "R"), (bar - pulse, pulse * 0.9, "F")]
        )
    if manner == "eighths":
        length = rng.choice((0.46, 0.4, 0.3))
        steps = [i / 2 for i in range(round(bar * 2))]
        last = rng.choice(("R", "A", "F"))
        return [(s, length, "R" if s < bar - 0.5 else last) for s in steps]
    if manner == "root-fifth":
        if len(pulses) == 4:
            return [(0.0, 1.6, "R"), (2.0, 1.4, "F")] + ([(3.5, 0.45, "A")] if rng.random() < 0.4 else [])
        return [(0.0, pulse * 0.9, "R"), (pulses[-1], pulse * 0.8, "F")]
    if manner == "kick":
        onsets = sorted({0.0, *kicks})
        ends = [*onsets[1:], bar]
        roles = [rng.choices("ROFR", (6, 1, 2, 2))[0] for _ in onsets]
        roles[0] = "R"
        return [(a, max(0.2, min(1.5, b - a) * 0.9), r) for a, b, r in zip(onsets, ends, roles, strict=True)]
    if manner == "octaves":
        return [(i / 2, 0.4, "R" if i % 2 == 0 else "O") for i in range(round(bar * 2))]
    if manner == "syncopated":
        options = (
            [(0.0, 0.7, "R"), (0.75, 0.4, "R"), (1.5, 0.45, "O"), (2.5, 0.4, "F"), (3.25, 0.3, "T"), (3.5, 0.4, "A")],
            [(0.0, 0.4, "R"), (0.75, 0.2, "O"), (1.75, 0.6, "R"), (2.5, 0.4, "F"), (3.5, 0.4, "A")],
            [(0.0, 0.2, "R"), (0.25, 0.2, "R"), (1.5, 0.4, "F"), (1.75, 0.2, "O"), (2.75, 0.5, "R"), (3.5, 0.2, "T")],
            [(0.0, 1.3, "R"), (1.5, 0.9, "R"), (2.5, 0.9, "F"), (3.5, 0.4, "A")],
        )
        return [note for note in rng.choice(options) if note[0] < bar]
    if manner == "arpeggio":
        order = rng.choice(("RTFO", "RFOF", "RFTF", "ROFT"))
        step = 0.5 if metre.name == "6/8" or rng.random() < 0.4 else 1.0
        return [(i * step, step * 0.92, order[i % 4]) for i in range(round(bar / step))]
    if manner == "tumbao":
        return [(0.0, 1.3, "R"), (1.5, 1.3, "F"), (3.0, 0.9, "O" if rng.random() < 0.5 else "R")]
    if manner == "dub":
        options = (
            [(0.0, 0.9, "R"), (1.5, 0.4, "R"), (2.0, 0.7, "T"), (3.0, 0.4, "F"), (3.5, 0.4, "F")],
            [(1.0, 0.4, "R"), (1.5, 0.4, "T"), (2.0, 0.9, "F")],
            [(0.0, 0.7, "R"), (0.75, 0.5, "R"), (1.5, 0.5, "F"), (2.5, 1.0, "R")],
        )
        return rng.choice(options)
    raise ValueError(f"no such bass manner: {manner!r}")


def write_bass(section: Section, metre: Metre, tonic: int, mode: str, kicks: list[float], rng: Random) -> list[Note]:
    """The bass of a section.

    Args:
        section: chords, manner and the bars in which the bass plays.
        metre: the song's metre.
        tonic: pitch class of the key.
        mode: the key's mode.
        kicks: beats of the bar at which the kick drum sounds.
        rng: source of every choice.

    Returns:
        Notes relative to the section's start, between E1 and D3.
    """
    first, last = (bar * metre.beats for bar in section.entries["bass"])
    manner = section.manners["bass"]
    tonic = (tonic + section.transposition) % 12
    home = 33 + rng.randint(0, 6)
    patterns = [_bar_pattern(manner, metre, kicks, rng) for _ in range(2)] if manner != "walking" else []
    if patterns and rng.random() < 0.5:
        patterns[1] = patterns[0]
    notes: list[Note] = []
    previous = home
    for chord in section.chords:
        following = chord_after(section.chords, chord)
        centre = round(0.6 * home + 0.4 * previous)
        if manner == "walking":
            scale = chord_scale(tonic, mode, chord)
            line = _walking(chord, following, scale, metre, rng, centre)
            notes += [Note(chord.start + n.start, n.duration, n.pitch, n.velocity) for n in line]
            previous = line[-1].pitch
            continue
        root = _pitch(tonic if manner == "pedal" else chord.bass, centre)
        choices = {
            "R": root,
            "F": _pitch((chord.root + chord.fifth) % 12, root + (7 if root < 40 else -5)),
            "T": _pitch((chord.root + chord.third) % 12, root + 4),
            "O": root + 12 if root + 12 <= HIGH + 4 else root,
        }
        at = 0.0
        while at < chord.duration - 1e-6:
            bar = int((chord.start + at + 1e-6) // metre.beats)
            offset = chord.start + at - bar * metre.beats
            span = min(metre.beats - offset, chord.duration - at)
            last_bar = at + span >= chord.duration - 1e-6
            for onset, length, what in patterns[bar % 2]:
                local = onset - offset
                if not -1e-6 <= local < span - 1e-6:
                    continue
                if what == "A":
                    target = _pitch(following.bass, root)
                    pitch = _approach(rng, target) if last_bar else choices["F"]
                else:
                    pitch = choices[what]
                length = min(length, span - local)
                velocity = (96 if local < 1e-6 else 86) + rng.randint(-4, 4)
                notes.append(Note(chord.start + at + local, length, pitch, velocity))
            if offset > 0.1 and not any(abs(n.start - chord.start) < 1e-6 for n in notes) and manner != "dub":
                notes.append(Note(chord.start, min(0.9, span), root, 92))  # a chord inside the bar gets its root
            at += span
        previous = root
    shift = (section.intensity - 0.6) * 22
    kept = [n for n in notes if first - 1e-6 <= n.start < last - 1e-6]
    return [Note(n.start, min(n.duration, last - n.start), n.pitch, int(n.velocity + shift)) for n in kept]
