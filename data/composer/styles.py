"""What each style of music draws from: tempo, metre, harmony, and how each instrument plays in it."""

from __future__ import annotations

from dataclasses import dataclass

ACOUSTIC, ELECTRIC_PIANO = (0, 1, 2, 3), (4, 5)
STEEL, CLEAN, DIRTY = (25, 24), (26, 27), (29, 30)


@dataclass(frozen=True)
class Style:
    """Ranges and choices of one style. Tempo: felt beats a minute; swing: where the off-beat falls, 0.5 = straight."""

    tempo: tuple[int, int]
    metres: tuple[str, ...]
    modes: tuple[str, ...]
    grooves: tuple[str, ...]
    kits: tuple[int, ...]
    bass_programs: tuple[int, ...]
    guitar_programs: tuple[int, ...]
    piano_programs: tuple[int, ...]
    bass: tuple[str, ...]
    guitar: tuple[str, ...]
    piano: tuple[str, ...]
    progressions: tuple[str, ...]  # names of PROGRESSIONS pools, without "-major" or "-minor"
    amount: str = "triads"
    swing: tuple[float, float] = (0.5, 0.5)
    swing_unit: float = 1.0
    chords_a_bar: tuple[float, ...] = (1.0,)
    light_drums: bool = False
    weight: float = 1.0


STYLES: dict[str, Style] = {
    "rock": Style(
        (96, 152), ("4/4",), ("major", "mixolydian", "minor"), ("rock",), (0, 8, 16), (33, 34), (29, 30, 27, 28),
        (0, 1, 2), ("eighths", "kick", "roots"), ("power", "palm-mute", "riff", "strum", "lead"),
        ("block", "pulse", "syncopated", "stabs"), ("rock", "pop"), weight=1.4,
    ),
    "pop": Style(
        (84, 128), ("4/4",), ("major", "minor"), ("rock", "boom-bap", "motown"), (0, 8), (33, 34, 35), (25, 27, 24, 26),
        (0, 1, 2, 4), ("roots", "eighths", "kick", "syncopated"), ("strum", "arpeggio", "palm-mute", "lead",
        "fingerpick"),
        ("block", "pulse", "syncopated", "broken", "lead"), ("pop",), amount="colours", weight=1.5,
    ),
    "ballad": Style(
        (60, 82), ("4/4",), ("major", "minor"), ("ballad",), (0, 8, 40), (33, 35, 32), (24, 25, 26, 27), (0, 1, 4, 5),
        ("roots", "root-fifth", "arpeggio"), ("fingerpick", "arpeggio", "held", "lead"),
        ("broken", "block", "lead", "syncopated"), ("pop", "soul"), amount="colours", chords_a_bar=(1.0, 1.0, 2.0),
        light_drums=True, weight=1.2,
    ),
    "punk": Style(
        (150, 180), ("4/4",), ("major", "minor"), ("punk",), (16, 0), (34, 33), (30, 29), (0, 1, 3), ("eighths",
        "kick"),
        ("palm-mute", "power", "strum"), ("pulse", "block", "lead"), ("rock",), chords_a_bar=(1.0, 0.5), weight=0.7,
    ),
    "funk": Style(
        (92, 116), ("4/4",), ("dorian", "mixolydian", "minor"), ("funk",), (0, 8, 16), (36, 37, 33), (27, 28, 26), (7,
        4, 5),
        ("syncopated", "kick", "octaves"), ("chank", "riff", "chank"), ("stabs", "jazz", "syncopated"), ("funk",),
        amount="sevenths", swing=(0.5, 0.58), swing_unit=0.5, chords_a_bar=(0.5, 1.0), weight=1.1,
    ),
    "disco": Style(
        (112, 126), ("4/4",), ("minor", "dorian", "major"), ("disco",), (0, 24), (33, 34, 37), (27, 28), (0, 1, 4),
        ("octaves", "syncopated", "kick"), ("chank", "arpeggio"), ("stabs", "pulse", "lead"), ("pop", "soul"),
        amount="sevenths",
    ),
    "bossa": Style(
        (116, 146), ("4/4",), ("major", "minor"), ("bossa",), (32, 40, 0), (32, 33, 35), (24, 26), (0, 4),
        ("root-fifth", "tumbao"), ("bossa", "lead", "arpeggio"), ("jazz", "lead", "pad"), ("bossa", "jazz"),
        amount="sevenths", light_drums=True,
    ),
    "jazz": Style(
        (110, 180), ("4/4", "4/4", "3/4"), ("major", "minor"), ("swing",), (32, 40), (32, 35), (26,), (0, 1, 4),
        ("walking",), ("freddie", "lead", "held"), ("jazz", "lead", "stride"), ("jazz",), amount="sevenths",
        swing=(0.6, 0.67), chords_a_bar=(1.0, 1.0, 2.0), light_drums=True, weight=1.1,
    ),
    "blues": Style(
        (76, 132), ("4/4",), ("mixolydian",), ("shuffle",), (0, 8, 40), (33, 32, 34), (26, 27, 29, 25), (0, 3, 4),
        ("walking", "root-fifth", "eighths"), ("riff", "lead", "boom-chick"), ("stride", "stabs", "lead", "pulse"),
        ("blues",), amount="sevenths", swing=(0.63, 0.67),
    ),
    "soul": Style(
        (72, 104), ("4/4",), ("major", "dorian"), ("motown", "boom-bap"), (0, 8), (33, 35, 36), (27, 26), (4, 5, 0),
        ("syncopated", "kick", "arpeggio"), ("chank", "arpeggio", "held", "lead"), ("syncopated", "pad", "jazz",
        "block"),
        ("soul",), amount="sevenths", swing=(0.5, 0.6), swing_unit=0.5,
    ),
    "reggae": Style(
        (68, 92), ("4/4",), ("major", "minor", "dorian"), ("one-drop",), (0, 8), (33, 35), (27, 28, 26), (0, 2, 7),
        ("dub",), ("skank", "riff", "lead"), ("stabs", "lead"), ("reggae",), swing=(0.5, 0.62), swing_unit=0.5,
    ),
    "country": Style(
        (92, 132), ("4/4",), ("major",), ("train",), (40, 0, 8), (33, 32), (25, 27, 24), (0, 3),
        ("root-fifth", "walking"), ("boom-chick", "fingerpick", "strum", "lead"), ("stride", "lead", "block"),
        ("folk",),
    ),
    "waltz": Style(
        (84, 150), ("3/4",), ("major", "minor"), ("waltz",), (40, 32, 0), (32, 33, 35), (24, 25, 26), (0, 3, 6),
        ("root-fifth", "roots", "arpeggio"), ("strum", "fingerpick", "lead", "boom-chick"),
        ("stride", "lead", "broken"), ("folk", "pop"), light_drums=True,
    ),
    "slow-six": Style(
        (60, 84), ("6/8",), ("major", "minor"), ("six-eight",), (0, 8, 40), (33, 32, 35), (25, 27, 24), (0, 1, 4),
        ("roots", "arpeggio", "root-fifth", "kick"), ("strum", "arpeggio", "lead"), ("pulse", "broken", "syncopated",
        "lead"),
        ("pop", "folk"), amount="triads",
    ),
    "half-time": Style(
        (120, 160), ("4/4",), ("minor", "dorian"), ("half-time",), (25, 24, 8), (38, 39, 33), (27, 28, 30), (4, 5, 0,
        2),
        ("kick", "roots", "dub"), ("arpeggio", "power", "held", "riff"), ("pad", "broken", "lead", "stabs"), ("pop",),
        amount="colours", chords_a_bar=(0.5, 1.0),
    ),
    "electro-pop": Style(
        (108, 132), ("4/4",), ("minor", "major", "lydian"), ("house", "disco"), (25, 24, 16), (38, 39), (27, 28, 31),
        (2, 4, 5, 1), ("octaves", "eighths", "syncopated"), ("arpeggio", "palm-mute", "chank"),
        ("stabs", "pad", "broken", "lead"), ("pop",), amount="colours", weight=1.1,
    ),
    "hip-hop": Style(
        (78, 98), ("4/4",), ("minor", "dorian"), ("boom-bap",), (8, 25, 0), (33, 38, 32), (26, 24, 27), (4, 0, 5),
        ("kick", "syncopated", "dub"), ("arpeggio", "held", "riff"), ("jazz", "pad", "broken", "block"),
        ("soul", "pop"), amount="sevenths", swing=(0.54, 0.62), swing_unit=0.5,
    ),
    "latin": Style(
        (92, 124), ("4/4",), ("minor", "major"), ("latin",), (0, 8), (32, 33, 35), (24, 25), (0, 1), ("tumbao",
        "syncopated"),
        ("arpeggio", "lead", "bossa"), ("montuno", "montuno", "lead"), ("latin",), amount="sevenths",
    ),
    "folk": Style(
        (84, 132), ("4/4", "3/4", "6/8"), ("major", "mixolydian", "dorian"), ("ballad",), (40, 0), (32, 33), (25, 24),
        (0, 3),
        ("roots", "root-fifth", "pedal"), ("fingerpick", "strum", "lead"), ("block", "broken", "lead"), ("folk",),
        light_drums=True,
    ),
}  # fmt: skip

# In 3/4 and 6/8 these grooves are meant, whatever the style names.
METRE_GROOVES = {"3/4": "waltz", "6/8": "six-eight"}

PROGRESSIONS: dict[str, tuple[str, ...]] = {
    "pop-major": (
        "I V vi IV", "vi IV I V", "I vi IV V", "I IV vi V", "I iii IV V", "IV I V vi", "I V/7 vi IV", "I ii IV V",
        "I bVII IV I", "I III7 vi iv", "IV iv I vi", "I V/7 vi I/5 IV I/3 ii V", "I IV I/3 V", "vi V IV V",
        "I I/3 IV iv",
    ),
    "pop-minor": (
        "i bVI bIII bVII", "i bVII bVI bVII", "i iv bVII bIII", "i bVI iv V7", "i v bVI bVII", "bVI bVII i i",
        "i bIII bVII IV", "i i bVI V7", "i bVII iv bVI", "iv i bVI bVII", "i V7 i bVII bIII bVII i V7",
    ),
    "rock-major": (
        "I bVII IV I", "I IV V IV", "I V IV IV", "I bIII IV I", "I IV bVII IV", "I I IV V", "vi IV I V", "I bVI bVII I",
    ),
    "rock-minor": ("i bVI bVII i", "i bIII bVII iv", "i i bVI bVII", "i iv i bVII", "i bIII IV bVI", "i bVII bVI V"),
    "funk-major": ("I7 IV7", "I9 I9 IV9 IV9", "I7 bVII7 IV7 I7", "I9 I9 ii7 V7sus4"),
    "funk-minor": ("i7 IV7", "i7 i7 i7 bVII7", "i9 IV9", "i7 bIII7 iv7 i7", "i7 i7 bVI7 V7"),
    "soul-major": (
        "Imaj7 iii7 IVmaj7 V7sus4", "IVmaj7 iii7 ii7 Imaj7", "vi7 ii7 V7sus4 Imaj7", "Imaj7 I7 IVmaj7 iv6",
        "ii7 V7sus4 Imaj7 vi7", "Imaj9 vi9 ii9 V7sus4",
    ),
    "soul-minor": ("i7 iv7 bVII7 bIIImaj7", "i9 IV9 i9 IV9", "bVImaj7 v7 i7 i7", "i7 bVImaj7 iim7b5 V7b9"),
    "jazz-major": (
        "ii7 V7 Imaj7 VI7", "Imaj7 vi7 ii7 V7", "iii7 VI7 ii7 V7", "Imaj7 IVmaj7 iii7 VI7b9 ii7 V7 Imaj7 V7",
        "Imaj7 #Idim7 ii7 V7", "Imaj7 v7 I7 IVmaj7 iv6 iii7 ii7 V7",
    ),
    "jazz-minor": (
        "iim7b5 V7b9 i6 i6", "i7 iv7 bVII7 bIIImaj7 bVImaj7 iim7b5 V7b9 i6", "i6 bVI7 V7 i6", "i7 bVII7 bVImaj7 V7b9",
    ),
    "bossa-major": ("Imaj7 Imaj7 II7 II7 ii7 V7 Imaj7 V7", "Imaj9 bIImaj7", "Imaj7 VI7 ii7 V7", "I6 #Idim7 ii7 V7"),
    "bossa-minor": ("i7 i7 iim7b5 V7b9", "i9 bVII9 bVImaj7 V7b9", "i7 iv7 V7b9 i6"),
    "blues-major": (
        "I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7", "I7 IV7 I7 I7 IV7 #IVdim7 I7 VI7 ii7 V7 I7 V7",
        "I7 V7 IV7 IV7 I7 V7 I7 V7", "I7 I7 IV7 IV7",
    ),
    "reggae-major": ("I IV", "I V vi IV", "I ii", "I IV V IV"),
    "reggae-minor": ("i bVII", "i iv", "i bVII bVI bVII", "i iv v i"),
    "folk-major": (
        "I IV I V", "I I IV I V V I I", "I vi IV V", "I V vi iii IV I IV V", "I IV V I", "I I7 IV iv I V7 I I",
        "I bVII IV I",
    ),
    "folk-minor": ("i bVII i bVII", "i bIII bVII i", "i iv V7 i", "i IV i bVII", "i bVI bIII bVII"),
    "latin-minor": ("i bVII bVI V7", "i iv V7 i", "i6 iim7b5 V7b9 i6", "iv7 bVII7 bIIImaj7 V7"),
    "latin-major": ("I IV V IV", "Imaj7 vi7 ii7 V7", "I VI7 ii7 V7"),
}  # fmt: skip
