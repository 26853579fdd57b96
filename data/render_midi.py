"""Renders a folder of MIDI files to a dataset: python -m data.render_midi --midi DIR --out DIR --split train."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pretty_midi

from data import variation
from data.amplifier import amplify
from data.building import Job, add_build_options, build_split, print_summary, run_command, track_name
from data.rendering import (
    DEFAULT_SOUNDFONT,
    MIXTURE_PEAK,
    STEMS,
    limit_peak,
    render_stems,
    to_pcm,
    write_track,
)
from data.report import describe_stems
from latent_diffusion.errors import DataError

_SUFFIXES = (".mid", ".midi")
_LONGEST_SECONDS = 1800.0
PROGRAMS = {"piano": range(0, 8), "guitar": range(24, 32), "bass": range(32, 40)}


def class_of_program(program: int) -> str | None:
    """The class of a General MIDI program outside the drum channel, or None: not part of the dataset."""
    return next((stem for stem, programs in PROGRAMS.items() if program in programs), None)


def stem_of(instrument: pretty_midi.Instrument) -> str | None:
    """The class of an instrument (drum channel, or General MIDI program), or None: not part of the dataset."""
    return "drums" if instrument.is_drum else class_of_program(instrument.program)


def read_stems(file: Path) -> tuple[dict[str, list[pretty_midi.Instrument]], float, int]:
    """Sorts the instruments of a MIDI file into stems.

    Args:
        file: the MIDI file.

    Returns:
        Instruments by stem, the end of their last note in seconds, and the number of instruments dropped.

    Raises:
        DataError: the file cannot be read, has no instrument of the four classes, or is too long.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tempo events on other tracks than the first; they are used anyway
            midi = pretty_midi.PrettyMIDI(str(file))
    except Exception as error:  # mido raises whatever a corrupt byte leads to
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise DataError(f"{file}: cannot be read as MIDI ({reason}); expected a standard MIDI file") from error
    stems: dict[str, list[pretty_midi.Instrument]] = {stem: [] for stem in STEMS}
    dropped = 0
    for instrument in midi.instruments:
        stem = stem_of(instrument)
        if stem is None:
            dropped += 1
        elif instrument.notes:
            stems[stem].append(instrument)
    notes = [note for instruments in stems.values() for instrument in instruments for note in instrument.notes]
    if not notes:
        raise DataError(
            f"{file}: found no notes for bass, drums, guitar or piano ({dropped} other instruments); expected the drum"
            " channel or General MIDI programs 0-7, 24-31, 32-39"
        )
    end = max(note.end for note in notes)
    if end > _LONGEST_SECONDS:
        raise DataError(f"{file}: lasts {end:.0f} s; expected at most {_LONGEST_SECONDS:.0f} s; cut it")
    return stems, end, dropped


def make_track(job: Job) -> dict:
    """Renders one MIDI file and writes its track.

    Args:
        job: recipe with `midi` (path of the file) and `min_stems`; what else it may hold, see `variation.draw`.

    Returns:
        The track's metadata and statistics.

    Raises:
        DataError: the file is of no use, see `read_stems`, or has fewer classes than wanted.
    """
    file = Path(job.recipe["midi"])
    instruments, end, dropped = read_stems(file)
    present = [stem for stem in STEMS if instruments[stem]]
    if len(present) < job.recipe["min_stems"]:
        raise DataError(
            f"{file}: has only {', '.join(present)}; expected {job.recipe['min_stems']} classes (--min-stems)"
        )
    for stem in present:
        for instrument in instruments[stem]:  # whatever comes after the last note would only lengthen the file
            for events in (instrument.control_changes, instrument.pitch_bends):
                events[:] = [event for event in events if event.time <= end]
    varied = variation.draw(job.recipe, file.name, instruments)
    variation.apply(varied, instruments)
    try:
        sounds = render_stems(instruments, end / varied.tempo, soundfonts=varied.soundfonts)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if varied.amplifier is not None:
        sounds["guitar"] = amplify(sounds["guitar"], varied.amplifier)
    stems = {stem: to_pcm(sound) for stem, sound in limit_peak(sounds, MIXTURE_PEAK).items()}
    metadata = {
        "recipe": job.recipe,
        "programs": {stem: sorted({int(i.program) for i in instruments[stem]}) for stem in STEMS},
        "instruments_dropped": dropped,
        **variation.describe(varied),
        "soundfonts": {stem: Path(varied.soundfonts.get(stem, DEFAULT_SOUNDFONT)).name for stem in present},
        **describe_stems(stems, {stem: sum(len(i.notes) for i in instruments[stem]) for stem in STEMS}),
    }
    if metadata["mixture_peak"] == 0.0:
        raise DataError(f"{file}: is silent when rendered; expected notes that sound")
    write_track(job.folder, stems, metadata, None)
    return metadata


def find_midi(folder: Path) -> list[Path]:
    """All MIDI files below a folder, sorted.

    Raises:
        DataError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of MIDI files; check --midi")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder}: found no .mid or .midi file, at any depth; check --midi")
    return files


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.render_midi",
        description="Renders a folder of MIDI files to DIR/SPLIT/TrackNNNNN/{bass,drums,guitar,piano}.wav (22 050 Hz,"
        " mono, 16 bit, stems equally long). Drum channel: drums; General MIDI programs 0-7: piano, 24-31: guitar,"
        " 32-39: bass; everything else is dropped, and a class that a song lacks is a silent file. A file of no use is"
        " listed with its reason and left out. Calling again goes on where an interrupted run stopped.",
        epilog="Example: python -m data.render_midi --midi ~/midi --out data/mine --split train --workers 4",
    )
    parser.add_argument(
        "--midi", type=Path, required=True, metavar="DIR", help="folder of .mid and .midi files, any depth"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of the dataset")
    parser.add_argument(
        "--min-stems", type=int, choices=(1, 2, 3, 4), default=1, help="leave out songs with fewer classes (default 1)"
    )
    variation.add_soundfont_option(parser)
    variation.add_amplifier_options(parser)
    for option, what in (
        ("programs", "replace programs by others of their class, drums by other kits"),
        ("transpose", "transpose all but the drums by -5 to 6 semitones"),
        ("tempo", "play 0.85 to 1.15 times as fast"),
    ):
        parser.add_argument(f"--{option}", choices=("random",), default=None, help=f"{what}; recorded in song.json")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of what is drawn at random (default 0)")
    add_build_options(parser, "file")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    files = find_midi(arguments.midi)
    options: dict = {key: getattr(arguments, key) for key in ("programs", "transpose", "tempo")}
    options = {key: value for key, value in options.items() if value}
    options |= variation.soundfonts_of(arguments.soundfont) | variation.amplifier_of(arguments)
    if options:  # a recipe without them stays what it was before they existed
        options["seed"] = arguments.seed
    folder = arguments.out / arguments.split
    jobs = [
        Job(folder / track_name(number), {"midi": str(file), "min_stems": arguments.min_stems, **options})
        for number, file in enumerate(files, start=1)
    ]
    songs, failures = build_split(folder, jobs, make_track, arguments.workers, arguments.quiet)
    if not songs:
        raise DataError(
            f"{arguments.midi}: none of {len(files)} MIDI files can be used; the first reason: {failures[0].reason}"
        )
    print_summary(folder, songs, failures)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
