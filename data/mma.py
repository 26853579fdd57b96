"""Lets MMA play generated chord charts: python -m data.mma --out MIDI_DIR --songs N --seed K."""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random

import mido
from tqdm import tqdm

from data.building import positive, run_command, write_file
from data.charts import MIN_CLASSES, Groove, playable, write_chart
from data.grooves import INSTALL, LIBRARY, class_of, find_grooves, find_mma, notes_of, perform, read_midi
from data.rendering import STEMS
from data.variation import RANDOM_PROGRAMS
from latent_diffusion.errors import DataError

# Raised when the same seed would give other charts.
CHART_VERSION = 1

_BANK_SELECT = (0, 32)
_ATTEMPTS = 6


def finish(midi: mido.MidiFile, rng: Random | None) -> dict[str, int]:
    """Makes a file of mma's ready for data.render_midi, in place: bank selections go, and classes may be filled.

    Args:
        midi: what mma wrote.
        rng: if given, programs that belong to no class play a class that the song lacks, where the pitch fits.

    Returns:
        Notes by class.
    """
    pitches: dict[tuple[int, int | None], list[int]] = defaultdict(list)
    for _, channel, program, pitch in notes_of(midi):
        pitches[channel, program].append(pitch)
    replaced: dict[tuple[int, int | None], int] = {}
    if rng is not None:
        absent = {s for s in STEMS if s != "drums"} - {class_of(program) for _, program in pitches}
        others = [key for key in sorted(pitches, key=str) if class_of(key[1]) is None]
        for key in sorted(others, key=lambda k: -len(pitches[k])):
            mean = sum(pitches[key]) / len(pitches[key])
            fitting = sorted(s for s in absent if (mean < 50 if s == "bass" else 45 <= mean <= 84))
            if fitting:
                stem = rng.choice(fitting)
                absent.remove(stem)
                replaced[key] = rng.choice(RANDOM_PROGRAMS[stem])
    for track in midi.tracks:
        waited, kept = 0, []
        for message in track:
            if message.type == "control_change" and message.control in _BANK_SELECT:
                waited += message.time
                continue
            if message.type == "program_change" and (message.channel, message.program) in replaced:
                message = message.copy(program=replaced[message.channel, message.program])
            kept.append(message.copy(time=message.time + waited))
            waited = 0
        track[:] = kept
    counts = Counter(class_of(program) for _, _, program, _ in notes_of(midi))
    return {stem: counts[stem] for stem in STEMS if counts[stem]}


def make_song(
    out: Path, number: int, seed: int, files: dict[str, list[Groove]], seconds: tuple[float, float], remap: bool
) -> dict[str, int] | None:
    """Writes song-NNNNN.mid, and its chart as song-NNNNN.mma. Charts that mma refuses are drawn again.

    Args:
        out: folder.
        number: of the song, from 1.
        seed: of the collection.
        files: see `playable`.
        seconds: see `write_chart`.
        remap: see `finish`.

    Returns:
        Notes by class; None: the song exists already.

    Raises:
        DataError: the song exists but was made with other settings, or mma refuses every chart.
    """
    file = out / f"song-{number:05d}.mid"
    chart_file = file.with_suffix(".mma")
    made_by = (
        f"// data.mma {CHART_VERSION}, seed {seed}/{number}, {seconds[0]:g} to {seconds[1]:g} s"
        f"{', remapped' if remap else ''}\n"
    )
    if file.exists():
        try:
            found = chart_file.read_text()
        except OSError:
            found = ""
        if not found.startswith(made_by):
            first = found.split("\n")[0] or "something else"
            raise DataError(f"{file}: was made by {first!r} instead of {made_by.strip()!r}; choose another --out")
        return None
    reason = ""
    for attempt in range(_ATTEMPTS):
        chart_seed = f"{seed}/{number}/{attempt}"
        chart = made_by + write_chart(chart_seed, files, seconds)
        try:
            midi = read_midi(perform(chart))
        except DataError as error:
            reason = str(error)
            continue
        notes = finish(midi, Random(f"{chart_seed}/remap") if remap else None)
        if len(notes) < MIN_CLASSES:
            reason = f"only {', '.join(notes)}"
            continue
        buffer = io.BytesIO()
        midi.save(file=buffer)
        write_file(chart_file, chart.encode())
        write_file(file, buffer.getvalue())
        return notes
    raise DataError(f"{file}: none of {_ATTEMPTS} charts gave a song; the last reason: {reason}")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.mma",
        description="Writes songs as MIDI files: chord charts from a seed, played by Musical MIDI Accompaniment with"
        f" the grooves of its library ({INSTALL}). data.render_midi then renders them. The same seed and version of mma"
        " give the same files. Calling again goes on where an interrupted run stopped.",
        epilog="Example: python -m data.mma --out midi/mma --songs 100 --seed 1",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MIDI_DIR", help="folder for the MIDI files")
    parser.add_argument("--songs", type=positive, required=True, metavar="N", help="number of songs")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="every choice follows from it (default 0)")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[60.0, 150.0], metavar="S", help="shortest, longest (default 60 150)"
    )
    parser.add_argument(
        "--remap",
        action="store_true",
        help="let instruments of no class (strings, organ ...) play a class that the song lacks",
    )
    parser.add_argument("--library", type=Path, default=LIBRARY, metavar="DIR", help=f"grooves (default {LIBRARY})")
    parser.add_argument("--workers", type=positive, default=1, metavar="W", help="runs of mma at a time (default 1)")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    shortest, longest = arguments.seconds
    if not 10.0 <= shortest <= longest <= 600.0:
        raise DataError(f"--seconds: found {shortest:g} {longest:g}; expected shortest and longest, from 10 to 600")
    find_mma()
    files = playable(find_grooves(arguments.out, arguments.library, arguments.workers))
    if not files:
        raise DataError(f"{arguments.library}: no groove has {MIN_CLASSES} of the classes {', '.join(STEMS)}")
    made, classes = 0, Counter[str]()
    for number in tqdm(range(1, arguments.songs + 1), desc="songs", disable=None):
        notes = make_song(arguments.out, number, arguments.seed, files, (shortest, longest), arguments.remap)
        if notes is not None:
            made += 1
            classes.update(notes.keys())
    counted = ", ".join(f"{stem} in {classes[stem]}" for stem in STEMS)
    print(f"{arguments.out}: {arguments.songs} songs, {made} of them new ({counted}); {len(files)} files of grooves")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
