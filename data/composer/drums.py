"""Drum parts: grooves a style, with variations, ghost notes, fills and crashes at the beginnings of sections."""

from __future__ import annotations

from random import Random

from data.composer.score import Metre, Note, Section

KICK, STICK, SNARE, CLAP, CLOSED, PEDAL, OPEN = 36, 37, 38, 39, 42, 44, 46
CRASH, RIDE, BELL, TAMBOURINE, COWBELL, SHAKER, CONGA_HIGH, CONGA_LOW = 49, 51, 53, 54, 56, 70, 63, 64
TOMS = (50, 48, 47, 45, 43, 41)

# Strings of sixteenths, one bar: X accent, x normal, - soft, g ghost. The voice "hat" moves to the ride or the open
# hat in loud sections; every other voice is a General MIDI key.
Groove = dict[str, str]
_KEYS = {
    "kick": KICK, "snare": SNARE, "stick": STICK, "clap": CLAP, "hat": CLOSED, "open": OPEN, "pedal": PEDAL,
    "ride": RIDE, "tambourine": TAMBOURINE, "cowbell": COWBELL, "shaker": SHAKER, "conga": CONGA_HIGH,
    "tumba": CONGA_LOW, "tom": 43,
}  # fmt: skip
_VELOCITY = {"X": 112, "x": 92, "-": 66, "g": 40}
_TRIM = {"hat": -16, "shaker": -18, "tambourine": -20, "ride": -10, "pedal": -14, "cowbell": -18, "open": -10}

GROOVES: dict[str, tuple[Groove, ...]] = {
    "rock": (
        {"kick": "X.......x.x.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X.....x.x.......", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X..x....x.x...x.", "snare": "....X.......X..g", "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "X...X...X...X..."},
    ),
    "punk": (
        {"kick": "X.....x.X.x.....", "snare": "....X.......X...", "open": "X.x.X.x.X.x.X.x."},
        {"kick": "X...x...X...x...", "snare": "..X...X...X...X.", "hat": "X...X...X...X..."},
    ),
    "funk": (
        {"kick": "X..x..x...x..x..", "snare": "....X..g.g..X..g", "hat": "X-x-X-x-X-x-X-x-"},
        {"kick": "X.x.......x..x..", "snare": "....X..g.g.gX...", "hat": "x.x.x.x.x.x.x...",
         "open": "..............x."},
        {"kick": "X..x..x..x......", "snare": "...gX..g....X.g.", "hat": "X-x-X-x-X-x-X-x-"},
    ),
    "disco": (
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "x.-.x.-.x.-.x.-.",
         "open": "..x...x...x...x."},
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "x-.-x-.-x-.-x-.-", "open": "..x...x...x...x."},
    ),
    "house": (
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..x...x...x...x.",
         "shaker": "x-x-x-x-x-x-x-x-"},
        {"kick": "X...X...X..xX...", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x.",
         "cowbell": "...x..x.....x..."},
    ),
    "bossa": (
        {"kick": "x..xx..xx..xx..x", "stick": "x..x..x...x..x..", "hat": "x.x.x.x.x.x.x.x."},
        {"kick": "x..xx..xx..xx..x", "stick": "..x..x..x..x..x.", "shaker": "X-x-X-x-X-x-X-x-",
         "pedal": "....x.......x..."},
    ),
    "swing": (
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "kick": "-.......-.......",
         "snare": "......g.......g."},
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "kick": "-.............x.",
         "snare": "..g.......g....."},
        {"ride": "X...X.x.X...X.x.", "pedal": "....x.......x...", "stick": "............x...", "kick": "-......."},
    ),
    "shuffle": (
        {"kick": "X.......x.......", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X.....x.x.....x.", "snare": "....X.g.....X.g.", "ride": "X.x.X.x.X.x.X.x."},
        {"kick": "X.......x.x.....", "snare": "..g.X.g...g.X.g.", "hat": "X...X.x.X...X.x."},
    ),
    "ballad": (
        {"kick": "X.......x.......", "stick": "....x.......x...", "hat": "x.-.x.-.x.-.x.-."},
        {"kick": "X.....x.x.......", "snare": "....x.......x...", "hat": "x.-.x.-.x.-.x.-."},
        {"kick": "X.........x.....", "stick": "........x.......", "shaker": "x-x-x-x-x-x-x-x-"},
    ),
    "half-time": (
        {"kick": "X.....x.....x...", "snare": "........X.......", "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X..x......x...x.", "snare": "........X.....g.", "hat": "x-x-x-x-x-x-x---"},
        {"kick": "X.........x..x..", "clap": "........X.......", "hat": "x.x.x.x.x.xxx.x."},
    ),
    "boom-bap": (
        {"kick": "X..x......x.....", "snare": "....X..g....X...", "hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X......x..xx....", "snare": "....X.......X..g", "hat": "x.x.x.x.x.x.x...",
         "open": "..............x."},
        {"kick": "X.x.....x..x....", "snare": "....X....g..X...", "ride": "x.x.x.x.x.x.x.x."},
    ),
    "one-drop": (
        {"kick": "........X.......", "stick": "........X.......", "hat": "x.X.x.X.x.X.x.X."},
        {"kick": "........X.......", "snare": "........X....g..", "hat": "X..xX..xX..xX..x"},
        {"kick": "X...X...X...X...", "stick": "....x.......X...", "hat": "..X...X...X...X."},
    ),
    "train": (
        {"kick": "X...x...X...x...", "snare": "-gX--gX--gX--gX-"},
        {"kick": "X.......X.......", "snare": "....X.......X..g", "hat": "x.x.x.x.x.x.x.x."},
    ),
    "motown": (
        {"kick": "X.....x.X.x.....", "snare": "X...X...X...X...", "tambourine": "..x...x...x...x."},
        {"kick": "X..x..x.x.......", "snare": "....X.......X...", "tambourine": "....X.......X...",
         "hat": "x.x.x.x.x.x.x.x."},
    ),
    "latin": (
        {"kick": "X..x....x..x....", "stick": "x..x..x...x.x...", "conga": "..x...x...x...x.",
         "tumba": "......xx......xx",
         "shaker": "X-x-X-x-X-x-X-x-"},
        {"kick": "X......xX......x", "cowbell": "X.x.X.x.X.x.X.x.", "snare": "......x.....X...",
         "conga": "..x..xx...x..xx."},
    ),
    "waltz": (
        {"kick": "X...........", "snare": "....x...x...", "hat": "x...x...x..."},
        {"kick": "X.........x.", "stick": "....x...x...", "ride": "X...x.x.x..."},
        {"kick": "X.....x.....", "snare": "........X...", "hat": "X.x.X.x.X.x."},
    ),
    "six-eight": (
        {"kick": "X.........x.", "snare": "......X.....", "hat": "X.x.x.X.x.x."},
        {"kick": "X...x.......", "stick": "......X.....", "ride": "X.x.x.X.x.x."},
        {"kick": "X.........x.", "snare": "......X..g..", "hat": "X...x.X...x."},
    ),
}  # fmt: skip

_EXTRAS = ("tambourine", "shaker", "cowbell")


def choose_groove(name: str, rng: Random, intensity: float) -> Groove:
    """A groove of the style with small changes, so that no two songs share every bar.

    Args:
        name: key of `GROOVES`.
        rng: source of the changes.
        intensity: 0 (quiet) to 1 (loud): decides what the hat becomes and whether percussion is added.

    Returns:
        Patterns of one bar by voice.
    """
    groove = dict(rng.choice(GROOVES[name]))
    kick = list(groove["kick"])
    free = [i for i in range(2, len(kick)) if kick[i] == "." and (i % 2 == 0 or name in ("funk", "boom-bap"))]
    free = [i for i in free if groove.get("snare", "." * len(kick))[i] not in "Xx"]
    if free and name not in ("disco", "house", "swing", "one-drop", "train", "waltz") and rng.random() < 0.45:
        kick[rng.choice(free)] = "x"
    groove["kick"] = "".join(kick)
    if "hat" in groove and name not in ("bossa", "disco", "one-drop"):
        if intensity > 0.75 and rng.random() < 0.6:
            groove[rng.choice(("ride", "ride", "open"))] = groove.pop("hat")
        elif intensity < 0.35 and rng.random() < 0.5:
            groove["pedal"] = groove.pop("hat")
    if intensity > 0.6 and rng.random() < 0.3:
        extra = rng.choice(_EXTRAS)
        steps = len(kick)
        backbeat = "".join("x" if i % 8 == 4 else "." for i in range(steps))
        running = "".join("x" if i % 4 == 0 else "-" if i % 2 == 0 else "." for i in range(steps))
        groove.setdefault(extra, backbeat if extra == "tambourine" or steps != 16 else running)
    return groove


def kick_steps(groove: Groove) -> list[float]:
    """Beats of the bar at which the kick sounds; the bass may lock to them."""
    return [i / 4 for i, mark in enumerate(groove["kick"]) if mark in "Xx"]


def _bar(groove: Groove, at: float, velocity_shift: float, rng: Random, until: float) -> list[Note]:
    notes = []
    for voice, pattern in groove.items():
        for i, mark in enumerate(pattern):
            if mark == "." or i / 4 >= until - 1e-6:
                continue
            if mark == "g" and rng.random() < 0.25:  # ghost notes come and go
                continue
            velocity = _VELOCITY[mark] + _TRIM.get(voice, 0) + velocity_shift + rng.randint(-3, 3)
            notes.append(Note(at + i / 4, 0.2, _KEYS[voice], int(max(18, min(124, velocity)))))
    return notes


def _fill(kind: str, at: float, beats: float, rng: Random, shift: float) -> list[Note]:
    """A fill of so many beats that starts at `at`."""
    steps = round(beats * 4)
    notes: list[Note] = []
    if kind == "toms":
        path = sorted(rng.sample(TOMS, rng.choice((3, 4))), reverse=True)
        for i in range(steps):
            if rng.random() < 0.85 or i == 0:
                key = SNARE if i < steps // 4 else path[min(len(path) - 1, i * len(path) // steps)]
                notes.append(Note(at + i / 4, 0.2, key, int(86 + 24 * i / steps + shift)))
    elif kind == "roll":
        for i in range(steps):
            notes.append(Note(at + i / 4, 0.2, SNARE, int(52 + 58 * i / steps + shift)))
    elif kind == "hits":
        for i in range(0, steps, 2):
            if i == 0 or rng.random() < 0.6:
                notes.append(Note(at + i / 4, 0.2, SNARE, int(104 + shift)))
                notes.append(Note(at + i / 4, 0.2, KICK, int(100 + shift)))
    elif kind == "eighths":
        for i in range(0, steps, 2):
            key = SNARE if i < steps // 2 else rng.choice(TOMS[2:])
            notes.append(Note(at + i / 4, 0.2, key, int(92 + 12 * i / steps + shift)))
    return notes  # "stop": nothing at all


def write_drums(section: Section, metre: Metre, groove: Groove, rng: Random, light: bool) -> list[Note]:
    """The drums of a section.

    Args:
        section: its entries say in which bars the drums play.
        metre: the song's metre.
        groove: one bar, see `choose_groove`.
        rng: source of fills and ghost notes.
        light: a style without crashes and loud fills.

    Returns:
        Notes relative to the section's start.
    """
    first, last = section.entries["drums"]
    shift = (section.intensity - 0.6) * 26
    notes: list[Note] = []
    if section.intensity > 0.4 or first > 0:
        notes.append(Note(first * metre.beats, 1.0, CRASH, int((78 if light else 104) + shift)))
    for bar in range(first, last):
        at = bar * metre.beats
        ending = bar == last - 1
        if section.final and ending:
            notes += [Note(at, 2.0, CRASH, int(96 + shift)), Note(at, 0.5, KICK, int(104 + shift))]
            continue
        fill_beats = 0.0
        kind = rng.choices(("toms", "roll", "hits", "eighths", "stop"), (5, 1 if light else 2, 2, 3, 1))[0]
        if ending and bar > first:
            fill_beats = rng.choice((1.0, 1.5, 2.0, metre.beats)) if metre.name != "6/8" else 1.5
        elif (bar - first) % 4 == 3 and rng.random() < 0.4:
            fill_beats = metre.pulse
        notes += _bar(groove, at, shift, rng, metre.beats - fill_beats)
        if fill_beats:
            soft = -22 if light else 0
            notes += _fill(kind, at + metre.beats - fill_beats, fill_beats, rng, shift + soft)
        elif bar > first and bar % 4 == 2 and rng.random() < 0.25:
            notes.append(Note(at + metre.beats - 0.5, 0.2, OPEN, int(80 + shift)))
    return notes


def write_count_in(metre: Metre, rng: Random) -> list[Note]:
    """Sticks that count one bar in."""
    return [Note(pulse, 0.2, STICK, 84 + rng.randint(-4, 4)) for pulse in metre.pulses]
