"""Composing a whole song: parameters, form (who plays when, and what), then the parts."""

from __future__ import annotations

from random import Random

from data.composer.bass import write_bass
from data.composer.drums import choose_groove, kick_steps, write_count_in, write_drums
from data.composer.guitar import write_guitar
from data.composer.harmony import MINOR_MODES, chord_from_roman, lay_out
from data.composer.piano import write_piano
from data.composer.score import METRES, STEMS, Chord, Metre, Note, Section, Song, shifted
from data.composer.styles import METRE_GROOVES, PROGRESSIONS, STYLES, Style

# Forms by length; one letter a section: Intro, Verse, Chorus, Bridge, Solo, Outro.
_FORMS = {
    3: ("IVC", "VCO", "IVV"),
    4: ("IVCO", "VCVC", "IVCC", "VVSC"),
    5: ("IVCVC", "IVCBO", "VCVCO", "IVSCO"),
    6: ("IVCVCO", "IVVCSO", "IVCBCO", "VCVCBC"),
    7: ("IVCVCBC", "IVCVSCO", "IVVCBCO"),
    8: ("IVCVCBCO", "IVCVCSCO", "IVVCVCBC"),
}
_LABELS = {"I": "intro", "V": "verse", "C": "chorus", "B": "bridge", "S": "solo", "O": "outro"}
_INTENSITY = {"intro": 0.35, "verse": 0.55, "chorus": 0.85, "bridge": 0.5, "solo": 0.75, "outro": 0.45}
# How loud each stem stands in the mixture while it plays (dB, RMS), and how much songs differ.
_LEVELS_DB = {"bass": (-21.0, 2.0), "drums": (-22.5, 2.0), "guitar": (-24.5, 2.5), "piano": (-25.0, 2.5)}
_MELODIC = ("guitar", "piano")
# Manners that draw the ear: seldom do both harmony instruments play so at a time.
_BUSY = {"chank", "broken", "alberti", "montuno", "fingerpick", "arpeggio", "lead"}
_CALM = {"guitar": ("held",), "piano": ("block", "pad", "stabs")}  # for styles whose own manners are all busy
_BRIDGE_RESTS = (("drums",), ("drums", "bass"), ("bass",), ("guitar",), ("piano",), ("guitar", "drums"))


def compose(seed: str, seconds: float) -> Song:
    """Composes a song.

    Args:
        seed: every choice follows from it; the same text gives the same song.
        seconds: wanted length; the song ends at the bar line of its form that is nearest.

    Returns:
        The song, every stem with at least a few bars to play.
    """
    rng = Random(f"{seed}/song")
    name = rng.choices(list(STYLES), [style.weight for style in STYLES.values()])[0]
    style = STYLES[name]
    metre = METRES[rng.choice(style.metres)]
    low, high = style.tempo
    tempo = float(min(high, 84) if metre.name == "6/8" and low > 84 else rng.randint(low, high))
    if metre.name == "6/8":
        tempo = min(tempo, 92.0)
    song = Song(
        seed=seed,
        style=name,
        tempo=tempo,
        metre=metre,
        swing=0.5 if metre.name == "6/8" else round(rng.uniform(*style.swing), 3),
        swing_unit=style.swing_unit,
        tonic=rng.randrange(12),
        mode=rng.choice(style.modes),
        programs={
            "bass": rng.choice(style.bass_programs),
            "drums": rng.choice(style.kits),
            "guitar": rng.choice(style.guitar_programs),
            "piano": rng.choice(style.piano_programs),
        },
        ritardando=rng.choice((0.0, 0.0, 0.08, 0.16)),
        reverb={stem: rng.randint(*((4, 24) if stem == "bass" else (12, 70))) for stem in STEMS},
        level_db={stem: rng.gauss(*level) for stem, level in _LEVELS_DB.items()},
    )
    song.sections = _plan(song, style, seconds, rng)
    _write_parts(song, style)
    return song


def _plan(song: Song, style: Style, seconds: float, rng: Random) -> list[Section]:
    """The form, fitted to the wanted length, with harmony, entries and manners."""
    bar_seconds = song.metre.beats * song.seconds_per_beat
    total = max(4, round(seconds / bar_seconds))
    unit = 8 if total >= 34 else 4 if total >= 12 else 2
    lengths = {"I": unit // 2 if unit == 8 or total > 16 else 2, "O": max(2, unit // 2), "B": unit, "S": unit}
    forms = [form for group in _FORMS.values() for form in group]

    def length(form: str) -> int:
        return sum(lengths.get(letter, unit) for letter in form)

    closest = sorted(forms, key=lambda form: abs(length(form) - total))[:4]
    form = rng.choice(closest[:3] if abs(length(closest[2]) - total) <= unit // 2 else closest[:1])
    # What is still missing is added to verses, choruses and solos in steps of four bars, so phrases stay whole.
    bars = [lengths.get(letter, unit) for letter in form]
    growing = [i for i, letter in enumerate(form) if letter in "VCS"]
    while total - sum(bars) >= 4:
        bars[rng.choice(growing)] += 4
    lifted = rng.random() < 0.12 and form.count("C") > 1
    harmony = _harmony(song, style, rng)
    manners = _manners(style, rng)
    entries = _entries(form, bars, rng)
    sections: list[Section] = []
    first_bar = 0
    for i, letter in enumerate(form):
        label = _LABELS[letter]
        final = i == len(form) - 1
        transposition = rng.choice((1, 2)) if lifted and letter == "C" and i == form.rindex("C") else 0
        chords = _section_chords(song, harmony, letter, bars[i], transposition, final, form[i + 1 : i + 2])
        plays = {stem: manner for stem, manner in manners[letter].items() if stem in entries[i]}
        if letter == "S" and not any(plays.get(stem) == "lead" for stem in _MELODIC):
            soloist = rng.choice([stem for stem in _MELODIC if stem in plays] or ["piano"])
            plays[soloist] = "lead"
            entries[i].setdefault(soloist, (0, bars[i]))
        intensity = _INTENSITY[label] + rng.uniform(-0.1, 0.1) + (0.08 if letter == "C" and final else 0.0)
        sections.append(
            Section(label, first_bar, bars[i], min(1.0, intensity), transposition, chords, entries[i], plays, final)
        )
        first_bar += bars[i]
    return sections


def _harmony(song: Song, style: Style, rng: Random) -> dict[str, tuple[str, float]]:
    """(progression, chords a bar) of every kind of section; intro and outro borrow from verse or chorus."""
    kind = "minor" if song.mode in MINOR_MODES else "major"
    pool = [p for name in style.progressions for p in PROGRESSIONS.get(f"{name}-{kind}", ())]
    if not pool:
        pool = list(PROGRESSIONS[f"pop-{kind}"])
    verse, chorus, bridge = rng.sample(pool, 3) if len(pool) >= 3 else rng.choices(pool, k=3)
    if rng.random() < 0.15:
        chorus = verse
    rate = rng.choice(style.chords_a_bar)
    harmony = {
        "V": (verse, rate),
        "C": (chorus, rng.choice(style.chords_a_bar)),
        "B": (bridge, rng.choice(style.chords_a_bar)),
    }
    harmony["I"] = harmony[rng.choice("VVC")]
    harmony["S"] = harmony[rng.choice("VC")]
    harmony["O"] = harmony[rng.choice("VCC")]
    return harmony


def _section_chords(
    song: Song,
    harmony: dict[str, tuple[str, float]],
    letter: str,
    bars: int,
    transposition: int,
    final: bool,
    following: str,
) -> tuple[Chord, ...]:
    style = STYLES[song.style]
    progression, rate = harmony[letter]
    if bars * rate < min(4, len(progression.split())):  # a short section still moves
        rate *= 2
    if len(progression.split()) == 8 and bars == 4 and song.metre.name == "4/4" and song.tempo < 120:
        rate = 2.0
    # The same kind of section has the same chords each time it comes, the way it leads on included.
    rng = Random(f"{song.seed}/turnaround/{letter}")
    minor = song.mode in MINOR_MODES
    turnaround = None
    if following and rng.random() < 0.35:
        turnaround = rng.choice(("V7", "bVII", "V7") if minor else ("V", "V7sus4", "IV"))
    tonic = (song.tonic + transposition) % 12
    beats = song.metre.beats
    if not final:
        return lay_out(progression, tonic, bars, beats, rate, style.amount, turnaround)
    body = lay_out(progression, tonic, bars - 1, beats, rate, style.amount, None)
    numeral = ("i" if minor else "I") + {"triads": "", "colours": "", "sevenths": "6"}[style.amount]
    return (*body, chord_from_roman(numeral, tonic, (bars - 1) * beats, beats))


def _manners(style: Style, rng: Random) -> dict[str, dict[str, str]]:
    """What every stem does in each kind of section; guitar and piano keep out of each other's way."""
    signature = {
        stem: rng.choice([m for m in getattr(style, stem) if m != "lead"] or ["held"]) for stem in ("bass", *_MELODIC)
    }
    result: dict[str, dict[str, str]] = {}
    for letter in _LABELS:
        chosen = {
            stem: signature[stem] if rng.random() < 0.5 else rng.choice(getattr(style, stem))
            for stem in ("bass", *_MELODIC)
        }
        if letter == "S":
            chosen[rng.choice(_MELODIC)] = "lead"
        both_lead = chosen["guitar"] == chosen["piano"] == "lead"
        if both_lead or (all(chosen[stem] in _BUSY for stem in _MELODIC) and rng.random() < 0.7):
            leading = [stem for stem in _MELODIC if chosen[stem] == "lead"]
            calmed = (
                rng.choice(_MELODIC) if both_lead or not leading else "piano" if leading == ["guitar"] else "guitar"
            )
            chosen[calmed] = rng.choice([m for m in getattr(style, calmed) if m not in _BUSY] or _CALM[calmed])
        result[letter] = {**chosen, "drums": "groove"}
    return result


def _entries(form: str, bars: list[int], rng: Random) -> list[dict[str, tuple[int, int]]]:
    """Who plays in which bars of every section. Every stem rests somewhere in most songs, and plays in every song."""
    resting_in_verse = rng.choice(("guitar", "piano", "guitar", "piano", None))
    entries: list[dict[str, tuple[int, int]]] = []
    verses = 0
    for letter, length in zip(form, bars, strict=True):
        whole = {stem: (0, length) for stem in STEMS}
        half = length // 2
        if letter == "I":
            starters = rng.choice((("guitar",), ("piano",), ("drums",), ("bass", "drums"), ("guitar", "piano"), STEMS))
            section = {stem: (0, length) for stem in starters}
            for stem in STEMS:
                if stem not in section and rng.random() < 0.45:
                    section[stem] = (half, length)
        elif letter == "V":
            verses += 1
            section = whole
            if resting_in_verse and (verses == 1 or rng.random() < 0.4):
                section.pop(resting_in_verse)
            if verses == 1 and length >= 4 and rng.random() < 0.4:
                late = rng.choice(("bass", "drums"))
                section[late] = (half, length)
        elif letter == "C":
            section = whole
            if rng.random() < 0.15:
                section.pop(rng.choice(_MELODIC))
        elif letter == "B":
            section = whole
            for stem in rng.choice(
                (("drums",), ("drums", "bass"), ("bass",), ("guitar",), ("piano",), ("guitar", "drums"))
            ):
                if rng.random() < 0.5 and length >= 4:
                    section[stem] = (half, length)
                else:
                    section.pop(stem)
        elif letter == "S":
            section = whole
            if rng.random() < 0.2:
                section.pop("drums")
        else:  # the outro: some leave, at the beginning or half-way
            section = whole
            leaving = rng.sample(STEMS, rng.choice((0, 1, 1, 2)))
            for stem in leaving:
                if rng.random() < 0.5 and length >= 4:
                    section[stem] = (0, half)
                else:
                    section.pop(stem)
        entries.append(section)
    by_loudness = sorted(range(len(form)), key=lambda i: "CSVBOI".index(form[i]))
    for stem in STEMS:  # nobody rests for most of the song
        for i in by_loudness:
            playing = sum(last - first for section in entries for s, (first, last) in section.items() if s == stem)
            if playing >= 0.45 * sum(bars):
                break
            entries[i][stem] = (0, bars[i])
    return entries


def _ending(section: Section, stem: str, notes: list[Note], metre: Metre) -> list[Note]:
    """Replaces the last bar of the song by one held note or chord, unless the stem has left before."""
    last_bar = (section.bars - 1) * metre.beats
    if not section.final or stem == "drums" or section.entries[stem][1] < section.bars:
        return notes
    before = [n for n in notes if n.start < last_bar - 1e-6]
    struck = [n for n in notes if abs(n.start - last_bar) < 1e-6]
    chord = section.chords[-1]
    if not struck:
        pitch = 36 + (chord.bass - 36) % 12 if stem == "bass" else 60 + (chord.root - 60) % 12
        struck = [Note(last_bar, metre.beats, pitch, 84)]
    return before + [Note(n.start, metre.beats, n.pitch, n.velocity, n.delay_seconds) for n in struck]


def _write_parts(song: Song, style: Style) -> None:
    """Writes every stem of every section. A section that returns is played from the same material."""
    metre = song.metre
    song.notes = {stem: [] for stem in STEMS}
    grooves = METRE_GROOVES.get(metre.name)
    if "swing" in style.grooves and metre.name == "3/4":
        grooves = "waltz"
    groove_name = grooves or Random(f"{song.seed}/groove").choice(style.grooves)
    density = Random(f"{song.seed}/density").uniform(0.3, 0.8) - max(0.0, (song.tempo - 110) / 200)
    for index, section in enumerate(song.sections):
        start = section.first_bar * metre.beats
        groove = choose_groove(groove_name, Random(f"{song.seed}/groove/{section.label}"), section.intensity)
        for stem in STEMS:
            if stem not in section.entries:
                continue
            # Drums vary in every section (fills); the others return with the same part.
            rng = Random(f"{song.seed}/{stem}/{index if stem == 'drums' else section.label}")
            if stem == "drums":
                notes = write_drums(section, metre, groove, rng, style.light_drums)
            elif stem == "bass":
                notes = write_bass(section, metre, song.tonic, song.mode, kick_steps(groove), rng)
            elif stem == "guitar":
                notes = write_guitar(section, metre, song.tonic, song.mode, rng, density)
            else:
                notes = write_piano(section, metre, song.tonic, song.mode, rng, density)
            song.notes[stem] += shifted(_ending(section, stem, notes, metre), start)
    first = song.sections[0]
    if set(first.entries) & {"guitar", "piano"} and len(first.entries) == 4 and not style.light_drums:
        count = Random(f"{song.seed}/count")
        if count.random() < 0.3:  # counted in: everybody else waits for the second bar
            for stem in STEMS:
                song.notes[stem] = [n for n in song.notes[stem] if n.start >= metre.beats - 1e-6]
            song.notes["drums"] = write_count_in(metre, count) + song.notes["drums"]
