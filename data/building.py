"""Runs the jobs of a split, one a track, in parallel; resumes, lists what failed, and writes the statistics."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from tqdm import tqdm

from data.rendering import METADATA_NAME
from data.report import line, summarise
from latent_diffusion.errors import DataError, MSGLDError
from latent_diffusion.files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One track to make: its folder, and the recipe (JSON values) that wholly decides what is in it."""

    folder: Path
    recipe: dict


@dataclass(frozen=True)
class Failure:
    """A track that could not be made."""

    name: str
    reason: str


def track_name(number: int) -> str:
    """Track00001, Track00002 ..."""
    return f"Track{number:05d}"


def existing(job: Job) -> dict | None:
    """The metadata of a finished track, or None.

    Raises:
        DataError: the folder holds something else than this job would make.
    """
    if not job.folder.exists():
        return None
    file = job.folder / METADATA_NAME
    try:
        metadata = json.loads(file.read_text())
        recipe = metadata["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{job.folder}: exists but has no readable {METADATA_NAME} ({type(error).__name__}); expected a track of"
            " this command; choose another --out or remove the folder"
        ) from error
    if recipe != job.recipe:
        differing = ", ".join(
            f"{key} {recipe.get(key)!r} instead of {job.recipe.get(key)!r}"
            for key in sorted(set(recipe) | set(job.recipe))
            if recipe.get(key) != job.recipe.get(key)
        )
        raise DataError(f"{job.folder}: was made with {differing}; choose another --out or remove the folder")
    return metadata


def _attempt(make: Callable[[Job], dict], job: Job) -> dict | Failure:
    """Makes one track; runs in a worker process, so failures travel as values."""
    try:
        return make(job)
    except MSGLDError as error:
        return Failure(job.folder.name, str(error))


def _end_with_parent() -> None:
    """Lets a worker process end when its parent was killed; it would wait for its next job for ever."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _results(make: Callable[[Job], dict], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict | Failure]]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _attempt(make, job)
        return
    # Not forked: the renderer and numpy bring threads of their own, and the caller may have some running.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _end_with_parent) as pool:
        futures = {pool.submit(_attempt, make, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def build_split(
    folder: Path, jobs: Sequence[Job], make: Callable[[Job], dict], workers: int, quiet: bool = False
) -> tuple[dict[str, dict], list[Failure]]:
    """Makes the tracks of a split that do not exist yet, and writes <split>/statistics.json.

    Args:
        folder: <out>/<split>.
        jobs: one a track.
        make: makes a track and returns its metadata; must be importable by a worker process.
        workers: processes.
        quiet: without the line a song.

    Returns:
        Metadata by track, finished earlier or now, in the order of the jobs; and the failures.

    Raises:
        DataError: a folder is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made a folder ({error.strerror}); choose another --out") from error
    done = {job.folder.name: metadata for job in jobs if (metadata := existing(job)) is not None}
    if done:
        logger.info("%s: %d tracks exist already and are kept", folder, len(done))
    failures: list[Failure] = []
    missing = [job for job in jobs if job.folder.name not in done]
    with tqdm(total=len(jobs), initial=len(done), desc=folder.name, unit="song", disable=None) as bar:
        for job, result in _results(make, missing, workers):
            bar.update()
            if isinstance(result, Failure):
                failures.append(result)
                tqdm.write(f"left out: {result.reason}", file=sys.stderr)
                continue
            done[job.folder.name] = result
            if not quiet:
                tqdm.write(line(job.folder.name, result), file=sys.stdout)
    songs = {job.folder.name: done[job.folder.name] for job in jobs if job.folder.name in done}
    failures.sort(key=lambda failure: failure.name)
    if songs:
        _write_statistics(folder, songs, failures)
    return songs, failures


def _write_statistics(folder: Path, songs: dict[str, dict], failures: list[Failure]) -> None:
    summary = summarise(songs)
    left_out = [{"track": f.name, "reason": f.reason} for f in failures]
    content = {"summary": summary, "left_out": left_out, "tracks": songs}
    write_file(folder / "statistics.json", (json.dumps(content, indent=1) + "\n").encode())


def print_summary(folder: Path, songs: dict[str, dict], failures: Sequence[Failure]) -> None:
    """Prints what a split holds, and the warnings."""
    summary = summarise(songs)
    print(f"{folder}: {summary['tracks']} tracks, {summary['seconds'] / 60:.1f} minutes")
    varied = [f"{v} different {k.removeprefix('distinct_')}s" for k, v in summary.items() if k.startswith("distinct_")]
    if varied:
        low, high = summary["tempo_range"]
        print(f"  {', '.join(varied)}; tempo {low:.0f} to {high:.0f}")
    for stem, numbers in summary["stems"].items():
        if numbers["tracks"]:
            print(
                f"  {stem:<7} {numbers['mean_notes_per_second']:5.1f} notes/s  {numbers['mean_rms_db']:6.1f} dB"
                f"  {numbers['mean_silence_share']:4.0%} silent  {numbers['mean_centroid_hz']:5.0f} Hz"
                f"  programs {', '.join(str(p) for p in numbers['programs'])}"
            )
    if failures:
        print(f"  {len(failures)} left out, see statistics.json")
    for warning in summary["warnings"]:
        print(f"  warning: {warning}")


def write_file(file: Path, data: bytes) -> None:
    """Writes a file so that it appears whole or not at all; makes its folder.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with whole_file(file) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}); choose another --out") from error


def positive(text: str) -> int:
    """An argparse type: an integer above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def split_name(text: str) -> str:
    """An argparse type: a plain folder name."""
    if not text or text != Path(text).name or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain folder name such as train")
    return text


def add_build_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the options of every maker of a split: --split, --workers (each makes a `what` at a time) and --quiet."""
    parser.add_argument("--split", type=split_name, default="train", help="folder of the split (default train)")
    parser.add_argument(
        "--workers",
        type=positive,
        default=min(8, os.cpu_count() or 1),
        metavar="W",
        help=f"processes, a {what} each (default: one a core, at most 8)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the summary only")


def run_command(
    command: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """Runs a command with the arguments in `argv`, None for the command line's; --debug is added to the parser's.

    Returns:
        Exit status: the command's; 2 for an error of the user's, one line on stderr (with --debug a traceback); 130
        when interrupted.
    """
    parser.add_argument("--debug", action="store_true", help="tracebacks instead of one-line errors")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return command(arguments)
    except MSGLDError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
