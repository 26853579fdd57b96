"""Makes a dataset of composed songs from nothing but a seed: python -m data.synthetic --out DIR --tracks N --seed K."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from data import variation
from data.building import Job, add_build_options, build_split, positive, print_summary, run_command, track_name
from data.composer import STEMS, Song, compose, perform
from data.rendering import MIXTURE_PEAK, balance, limit_peak, render_stems, to_pcm, write_track
from data.report import describe_stems
from latent_diffusion.errors import DataError

# Part of every recipe: raised when the same seed would give other music, so that a dataset is never of two kinds.
COMPOSER_VERSION = 1


def song_metadata(song: Song) -> dict:
    """What was composed, as JSON values."""
    return {
        "style": song.style,
        "tempo": song.tempo,
        "metre": song.metre.name,
        "swing": song.swing,
        "key": song.key,
        "programs": song.programs,
        "sections": [
            {
                "label": section.label,
                "start_seconds": round(song.seconds(section.first_bar * song.metre.beats), 3),
                "bars": section.bars,
                "chords": [chord.name for chord in section.chords],
                "plays": {stem: section.manners.get(stem, "groove") for stem in section.entries},
            }
            for section in song.sections
        ],
    }


def make_track(job: Job) -> dict:
    """Composes, renders and writes one track.

    Args:
        job: recipe with `seed` (text), `seconds` (wanted length), and what `variation.soundfonts_of` gave.

    Returns:
        The track's metadata and statistics.

    Raises:
        DataError: the track cannot be rendered or written.
    """
    seed = job.recipe["seed"]
    song = compose(seed, job.recipe["seconds"])
    midi = perform(song)
    instruments = {instrument.name: [instrument] for instrument in midi.instruments}
    soundfonts = variation.draw(job.recipe, seed, instruments).soundfonts
    sounds = balance(render_stems(instruments, midi.get_end_time(), soundfonts=soundfonts), song.level_db)
    peak = Random(f"{seed}/peak").uniform(0.6, MIXTURE_PEAK)
    stems = {stem: to_pcm(sound) for stem, sound in limit_peak(sounds, peak).items()}
    notes = {stem: len(instruments[stem][0].notes) for stem in STEMS}
    metadata = {"recipe": job.recipe, **song_metadata(song), **describe_stems(stems, notes)}
    if soundfonts:
        metadata["soundfonts"] = {stem: Path(file).name for stem, file in soundfonts.items()}
    write_track(job.folder, stems, metadata, midi)
    return metadata


def plan_jobs(
    out: Path,
    split: str,
    tracks: int,
    seed: int,
    seconds: Sequence[float],
    soundfonts: Mapping[str, object] | None = None,
) -> list[Job]:
    """The jobs of a split. The splits of one seed share no song: the split's name is part of every song's seed.

    Args:
        out: root of the dataset.
        split: name of the split.
        tracks: number of songs.
        seed: of the dataset.
        seconds: shortest and longest song.
        soundfonts: see `variation.soundfonts_of`.

    Returns:
        One job a song.
    """
    jobs = []
    for number in range(1, tracks + 1):
        song_seed = f"{seed}/{split}/{number}"
        length = round(Random(f"{song_seed}/seconds").uniform(*seconds), 1)
        recipe = {"composer": COMPOSER_VERSION, "seed": song_seed, "seconds": length, **(soundfonts or {})}
        jobs.append(Job(out / split / track_name(number), recipe))
    return jobs


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic",
        description="Composes multi-track songs and renders them to DIR/SPLIT/TrackNNNNN/{bass,drums,guitar,piano}.wav"
        " (22 050 Hz, mono, 16 bit, stems equally long). The same seed gives the same files. Calling again goes on"
        " where an interrupted run stopped.",
        epilog="Example: python -m data.synthetic --out songs --tracks 24 --valid-tracks 6 --seed 1 --workers 2",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of the dataset")
    parser.add_argument("--tracks", type=positive, required=True, metavar="N", help="songs in the split")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="every choice follows from it (default 0)")
    parser.add_argument(
        "--valid-tracks", type=positive, default=None, metavar="M", help="also make DIR/valid with so many other songs"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=[40.0, 90.0],
        metavar="S",
        help="wanted length of a song, or the shortest and longest (default 40 90); songs end at a bar line near it",
    )
    variation.add_soundfont_option(parser)
    add_build_options(parser, "song")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    """Makes the splits; returns the exit status: 0, or 1 when a song is missing."""
    seconds = arguments.seconds * 2 if len(arguments.seconds) == 1 else arguments.seconds
    if len(seconds) != 2 or not 10.0 <= seconds[0] <= seconds[1] <= 600.0:
        found = " ".join(f"{s:g}" for s in arguments.seconds)
        raise DataError(f"--seconds: found {found}; expected one length or a shortest and a longest, from 10 to 600")
    if arguments.valid_tracks and arguments.split == "valid":
        raise DataError("--valid-tracks: found beside --split valid; give the number of songs by --tracks only")
    soundfonts = variation.soundfonts_of(arguments.soundfont)
    splits = {arguments.split: arguments.tracks}
    if arguments.valid_tracks:
        splits["valid"] = arguments.valid_tracks
    failed = 0
    for split, tracks in splits.items():
        jobs = plan_jobs(arguments.out, split, tracks, arguments.seed, seconds, soundfonts)
        songs, failures = build_split(arguments.out / split, jobs, make_track, arguments.workers, arguments.quiet)
        if not songs:
            raise DataError(f"{arguments.out / split}: no song could be made; the first reason: {failures[0].reason}")
        print_summary(arguments.out / split, songs, failures)
        failed += len(failures)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
