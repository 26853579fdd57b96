"""Draws how a MIDI file is rendered: SoundFonts, programs, key and tempo; all from a seed, all reported."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pretty_midi

from data.amplifier import RESPONSES, Amplifier, draw_amplifier, find_responses
from data.rendering import DEFAULT_SOUNDFONT, STEMS, check_soundfont
from latent_diffusion.errors import DataError

# General MIDI programs of every class that a program may be replaced by; 31 (guitar harmonics) sounds another pitch.
RANDOM_PROGRAMS: Mapping[str, tuple[int, ...]] = {
    "bass": tuple(range(32, 40)),
    "drums": (0, 8, 16, 24, 25, 32, 40),  # kits
    "guitar": tuple(range(24, 31)),
    "piano": tuple(range(0, 8)),
}
TRANSPOSITIONS = (-5, 6)
TEMPI = (0.85, 1.15)

_BANK_SELECT = (0, 32)


@dataclass(frozen=True)
class Variation:
    """How one song is rendered.

    Attributes:
        soundfonts: file by stem; empty: the default SoundFont for all.
        programs: by stem, the program that replaces each one of the file; empty: the file's own.
        transpose: semitones, drums excepted.
        tempo: factor; 1.1 is faster.
        amplifier: of the guitar; None: as the SoundFont plays it.
    """

    soundfonts: Mapping[str, str]
    programs: Mapping[str, Mapping[int, int]]
    transpose: int = 0
    tempo: float = 1.0
    amplifier: Amplifier | None = None


def add_soundfont_option(parser: argparse.ArgumentParser) -> None:
    """Adds --soundfont; `soundfonts_of` reads it."""
    parser.add_argument(
        "--soundfont",
        nargs="+",
        default=[],
        metavar="[STEM=]FILE",
        help="SoundFont 2 files, for all stems or for one, such as drums=kit.sf2; of several every stem of every song"
        f" draws one (default: pretty_midi's {DEFAULT_SOUNDFONT})",
    )


def soundfonts_of(values: Sequence[str]) -> dict:
    """What --soundfont says, as keys of a recipe (see `draw`); without any it is empty.

    Raises:
        DataError: a file is no SoundFont 2 file.
    """
    everywhere: list[str] = []
    by_stem: dict[str, list[str]] = {}
    for value in values:
        stem, equals, file = value.partition("=")
        if equals and stem in STEMS:
            by_stem.setdefault(stem, []).append(file)
        else:
            file = value
            everywhere.append(file)
        check_soundfont(Path(file))
    found = {"soundfonts": everywhere, "stem_soundfonts": by_stem}
    return {key: value for key, value in found.items() if value}


def add_amplifier_options(parser: argparse.ArgumentParser) -> None:
    """Adds --amplify and --responses; `amplifier_of` reads them."""
    parser.add_argument(
        "--amplify",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the guitar stems, from 0 to 1, that are distorted and played through a cabinet (default 0)",
    )
    parser.add_argument(
        "--responses",
        type=Path,
        default=RESPONSES,
        metavar="DIR",
        help=f"impulse responses of cabinets, .wav files (default {RESPONSES}, of guitarix-common, GPL-2+)",
    )


def amplifier_of(arguments: argparse.Namespace) -> dict:
    """What --amplify and --responses say, as keys of a recipe (see `draw`); without --amplify it is empty.

    Raises:
        DataError: the share is none, or there is no response.
    """
    if not 0.0 <= arguments.amplify <= 1.0:
        raise DataError(f"--amplify: found {arguments.amplify:g}; expected a share from 0 to 1")
    if not arguments.amplify:
        return {}
    find_responses(str(arguments.responses))
    return {"amplify": arguments.amplify, "responses": str(arguments.responses)}


def draw(recipe: Mapping, song: str, instruments: Mapping[str, Sequence[pretty_midi.Instrument]]) -> Variation:
    """Draws a song's variation. Each choice has its own random stream, so one option does not change the others.

    Args:
        recipe: may hold `soundfonts` (paths), `stem_soundfonts` (paths by stem, instead of those), `programs`,
            `transpose`, `tempo` ("random"), `amplify` (share) with `responses` (folder), and `seed`.
        song: what tells the song from others of the same seed.
        instruments: by stem.

    Returns:
        The variation; without those keys one that changes nothing.
    """

    def random(what: str) -> Random:
        return Random(f"{recipe.get('seed', 0)}/{song}/{what}")

    soundfonts: dict[str, str] = {}
    programs: dict[str, dict[int, int]] = {}
    for stem, parts in instruments.items():
        files = recipe.get("stem_soundfonts", {}).get(stem) or recipe.get("soundfonts")
        if files:
            soundfonts[stem] = random(f"soundfont/{stem}").choice(list(files))
        if recipe.get("programs") and parts:
            own, pool = sorted({int(part.program) for part in parts}), list(RANDOM_PROGRAMS[stem])
            random(f"programs/{stem}").shuffle(pool)
            programs[stem] = {program: pool[i % len(pool)] for i, program in enumerate(own)}
    return Variation(
        soundfonts,
        programs,
        random("transpose").randint(*TRANSPOSITIONS) if recipe.get("transpose") else 0,
        round(random("tempo").uniform(*TEMPI), 3) if recipe.get("tempo") else 1.0,
        draw_amplifier(random("amplify"), recipe["amplify"], recipe["responses"])
        if recipe.get("amplify") and instruments.get("guitar")
        else None,
    )


def apply(variation: Variation, instruments: Mapping[str, Sequence[pretty_midi.Instrument]]) -> None:
    """Changes the instruments as a variation says, in place. A pitch that leaves MIDI's range turns back by octaves."""
    for stem, parts in instruments.items():
        for part in parts:
            if stem in variation.programs:
                part.program = variation.programs[stem][int(part.program)]
                # A bank that the file selects would replace the drawn program by one of the maker's own.
                part.control_changes = [c for c in part.control_changes if c.number not in _BANK_SELECT]
            if stem != "drums" and variation.transpose:
                for note in part.notes:
                    pitch = note.pitch + variation.transpose
                    note.pitch = pitch + 12 if pitch < 0 else pitch - 12 if pitch > 127 else pitch
            if variation.tempo != 1.0:
                for note in part.notes:
                    note.start, note.end = note.start / variation.tempo, note.end / variation.tempo
                for event in (*part.control_changes, *part.pitch_bends):
                    event.time /= variation.tempo


def describe(variation: Variation) -> dict:
    """JSON values for song.json: files by name, so that a split without a SoundFont can be made from it."""
    return {
        "soundfonts": {stem: Path(file).name for stem, file in variation.soundfonts.items()},
        "replaced_programs": {
            stem: {str(old): new for old, new in replaced.items()} for stem, replaced in variation.programs.items()
        },
        "transpose": variation.transpose,
        "tempo_factor": variation.tempo,
        **(
            {"amplifier": {"response": Path(amplifier.response).name, "drive_db": amplifier.drive_db}}
            if (amplifier := variation.amplifier)
            else {}
        ),
    }
