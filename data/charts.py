"""Writes chord charts for MMA (Musical MIDI Accompaniment): key, form, progressions and grooves from a seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from random import Random

from data.composer.harmony import chord_from_roman, enrich
from data.composer.styles import PROGRESSIONS

MIN_CLASSES = 3

# Chord names of MMA that are not ours.
_MMA_QUALITIES = {"maj7": "M7", "maj9": "M9", "madd9": "m(add9)", "7sus4": "7sus", "dim": "dim3"}
_FLAT_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_ROMAN = re.compile(r"^[b#]?(VII|VI|IV|V|III|II|I)([a-z0-9]*)", re.IGNORECASE)

_FORMS = ("AABA", "ABAB", "AABB", "ABAC", "AABC", "ABABCB", "AABABC")
_KINDS = (("intro", r"intro"), ("end", r"end|outro"), ("fill", r"fill|break"))

# Words in the names of grooves and files: progression pools, and tempo in beats a minute.
_WORDS: tuple[tuple[str, tuple[str, ...], tuple[int, int]], ...] = (
    (r"ballad|slow|lullaby|hymn|spiritual", ("pop", "soul", "folk"), (62, 92)),
    (r"bossa|beguine", ("bossa", "jazz"), (110, 150)),
    (r"bebop|fast|quickstep|gypsy|dixie", ("jazz",), (160, 220)),
    (r"swing|jazz|bigband|foxtrot|combo|fusion|evans|nitejazz", ("jazz", "soul"), (110, 180)),
    (r"blues|boogie|boggie|shuffle|rb|r&b|twist", ("blues", "rock"), (92, 150)),
    (
        r"samba|salsa|mambo|merengue|latin|rhumba|rumba|cha|tango|bolero|calypso|cuban",
        ("latin", "bossa"),
        (96, 140),
    ),
    (r"funk|soul|motown|disco|dance|trance|techno|house|rap|hip", ("funk", "soul", "pop"), (94, 128)),
    (r"reggae|ska", ("reggae", "pop"), (72, 140)),
    (r"punk|metal|hard|rock|beat", ("rock", "pop"), (96, 150)),
    (r"country|folk|bluegrass|polka|march|western|zydeco|waltz", ("folk", "pop"), (92, 140)),
)
_OTHERWISE = (("pop", "rock", "soul", "folk"), (88, 132))


@dataclass(frozen=True)
class Groove:
    """A groove of MMA's library.

    Attributes:
        file: library file without suffix, such as stdlib/bossanova.
        name: as the file defines it.
        kind: main, intro, end or fill, by its name.
        beats: of a bar, in MMA's beats (quarter notes of its MIDI files).
        size: bars after which it repeats.
        classes: which of our classes it plays.
    """

    file: str
    name: str
    kind: str
    beats: float
    size: int
    classes: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """What MMA finds it by."""
        return f"{self.file}:{self.name}"

    def to_dict(self) -> dict:
        """JSON values; `Groove(**values)` after making `classes` a tuple reads them."""
        return {**asdict(self), "classes": list(self.classes)}


def kind_of(name: str) -> str:
    """What a groove is for, by its name: intro, end, fill or main."""
    return next((kind for kind, words in _KINDS if re.search(words, name, re.IGNORECASE)), "main")


def chord_name(numeral: str, tonic: int) -> str:
    """MMA's name of a chord.

    Args:
        numeral: see `chord_from_roman`.
        tonic: pitch class of the key.

    Returns:
        Such as Ebm7, BbM7 or C/G.

    Raises:
        ValueError: not a Roman numeral.
    """
    chord = chord_from_roman(numeral, tonic)
    match = _ROMAN.match(numeral)
    if match is None:
        raise ValueError(f"not a Roman numeral: {numeral!r}")
    degree, quality = match.groups()
    if degree.islower() and not quality.startswith(("dim", "m", "sus")):
        quality = "m" + quality
    bass = f"/{_FLAT_NAMES[chord.bass]}" if chord.bass != chord.root else ""
    return f"{_FLAT_NAMES[chord.root]}{_MMA_QUALITIES.get(quality, quality)}{bass}"


def playable(grooves: Iterable[Groove]) -> dict[str, list[Groove]]:
    """The library files that a song can be made of.

    Args:
        grooves: of the library.

    Returns:
        By file: all its grooves in the metre of the first main groove with enough classes. Files without one are left
        out, and so are bars of less than two or more than twelve beats.
    """
    files: dict[str, list[Groove]] = {}
    for groove in grooves:
        files.setdefault(groove.file, []).append(groove)
    result = {}
    for file, members in files.items():
        main = next((g for g in members if g.kind == "main" and len(g.classes) >= MIN_CLASSES), None)
        if main is not None and 2.0 <= main.beats <= 12.0:
            result[file] = [g for g in members if g.beats == main.beats]
    return result


def _mains(members: Sequence[Groove]) -> list[Groove]:
    return [g for g in members if g.kind == "main" and len(g.classes) >= MIN_CLASSES]


def _character(file: str) -> tuple[tuple[str, ...], tuple[int, int]]:
    name = file.split("/")[-1]
    return next(((pools, tempo) for words, pools, tempo in _WORDS if re.search(words, name)), _OTHERWISE)


def _bar(chords: Sequence[str], beats: float) -> str:
    """The chords of a bar, at equal distances; where they do not fall on beats only the first stays."""
    if len(chords) == 1 or beats % len(chords):
        return chords[0]
    rests = " /" * (int(beats) // len(chords) - 1)
    return " ".join(f"{chord}{rests}" for chord in chords)


def _section_bars(rng: Random, pools: Sequence[str], mode: str, tonic: int, bars: int, beats: float) -> list[str]:
    """The chords of a section, one text a bar."""
    candidates = [p for pool in pools for p in PROGRESSIONS.get(f"{pool}-{mode}", ())]
    numerals = rng.choice(candidates or list(PROGRESSIONS[f"pop-{mode}"])).split()
    amount = rng.choice(("triads", "triads", "sevenths", "colours"))
    names = [chord_name(enrich(numeral, amount), tonic) for numeral in numerals]
    two_a_bar = len(names) % 2 == 0 and len(names) >= 4 and beats % 2 == 0 and rng.random() < 0.25
    by_bar = [names[i : i + 2] for i in range(0, len(names), 2)] if two_a_bar else [[name] for name in names]
    result = [_bar(by_bar[i % len(by_bar)], beats) for i in range(bars)]
    if rng.random() < 0.6:
        result[-1] = chord_name("V7" if rng.random() < 0.7 else "V7sus4", tonic)
    return result


def write_chart(seed: str, files: dict[str, list[Groove]], seconds: tuple[float, float]) -> str:
    """Writes the chart of a song.

    A song takes the grooves of one library file (sometimes a second one of the same metre for its other sections): an
    intro, a form of lettered sections that come back with their chords and groove, fills before changes, an ending.
    Some songs move up for the last sections.

    Args:
        seed: everything follows from it.
        files: see `playable`.
        seconds: shortest and longest length wanted, without intro and ending.

    Returns:
        MMA's input.
    """
    rng = Random(seed)
    file = rng.choice(sorted(files))
    members = files[file]
    beats = members[0].beats
    pools, (low, high) = _character(file)
    tempo = rng.randint(low, high)
    if beats >= 6.0:  # the beats of 6/8 and 12/8 are eighth notes
        tempo = round(tempo * 1.8)
    others = [f for f in sorted(files) if f != file and files[f][0].beats == beats]
    similar = [f for f in others if _character(f)[0] == pools] or others
    contrast = files[rng.choice(similar)] if similar and rng.random() < 0.25 else members

    tonic, mode = rng.randrange(12), rng.choice(("major", "major", "minor"))
    if not any(f"{pool}-{mode}" in PROGRESSIONS for pool in pools):
        mode = "major"
    bars = 12 if pools[0] == "blues" and rng.random() < 0.7 else rng.choice((8, 8, 8, 4, 16))
    form = rng.choice(_FORMS)
    wanted = rng.uniform(*seconds) * tempo / 60.0 / beats
    letters = [form[i % len(form)] for i in range(max(2, round(wanted / bars)))]
    lift_at = len(letters) - rng.randint(1, 2) if len(letters) >= 4 and rng.random() < 0.15 else len(letters)
    lift = rng.choice((1, 2))
    grooves = {letter: rng.choice(_mains(members if letter == "A" else contrast)) for letter in "ABC"}
    section_seed = rng.random()

    def chords(letter: str, at: int) -> list[str]:
        key = tonic + (lift if at >= lift_at else 0)
        return _section_bars(Random(f"{section_seed}/{letter}"), pools, mode, key % 12, bars, beats)

    lines = [f"RndSeed {rng.randrange(1, 1 << 30)}", f"Tempo {tempo}"]
    number = 1

    def play(groove: Groove, texts: Sequence[str]) -> None:
        nonlocal number
        lines.append(f"Groove {groove.full_name}")
        for text in texts:
            lines.append(f"{number} {text}")
            number += 1

    intros, ends = ([g for g in members if g.kind == kind] for kind in ("intro", "end"))
    if intros and rng.random() < 0.7:
        intro = rng.choice(intros)
        play(intro, chords("A", 0)[: min(max(1, intro.size), bars, 8)])
    for at, letter in enumerate(letters):
        groove, texts = grooves[letter], chords(letter, at)
        fills = [g for g in (members if letter == "A" else contrast) if g.kind == "fill"]
        changes = at + 1 < len(letters) and (letters[at + 1] != letter or rng.random() < 0.4)
        if fills and changes and bars > 1 and rng.random() < 0.7:
            play(groove, texts[:-1])
            play(rng.choice(fills), texts[-1:])
        else:
            play(groove, texts)
    final = chord_name("I" if mode == "major" else "i", (tonic + (lift if lift_at < len(letters) else 0)) % 12)
    if ends and rng.random() < 0.8:
        ending = rng.choice(ends)
        play(ending, [final] * min(max(1, ending.size), 4))
    else:
        lines.append(f"{number} {final}")
    return "\n".join(lines) + "\n"
